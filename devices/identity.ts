// Who a board says it is. `Hardware:` in /proc/cpuinfo is the same on every Raspberry Pi and a Jetson's model
// may lack the word, so the device tree's `compatible` list decides and the rest is for people.
import { boardKeyOf } from "./boards.ts";
import type { BoardIdentity } from "./profile.ts";
import type { Sysroot } from "./sysroot.ts";

/** The board's identity; `model` is absent when nothing on it gives a name. */
export async function readIdentity(
  sysroot: Sysroot,
): Promise<Omit<BoardIdentity, "model"> & { readonly model?: string }> {
  const cpuinfo = (await sysroot.text("/proc/cpuinfo")) ?? "";
  const field = (name: string) => new RegExp(`^${name}\\s*: (.+)$`, "m").exec(cpuinfo)?.[1];
  const compatible = ((await deviceTree(sysroot, "compatible")) ?? "").split("\0").map(printable);
  const names = compatible.filter((name) => name !== "").slice(0, 16);
  const key = boardKeyOf(names, field("Revision"));
  const model = [
    await deviceTree(sysroot, "model"),
    field("Model"),
    await dmiName(sysroot),
    field("model name"),
  ]
    .map((name) => printable(name ?? ""))
    .find((name) => name !== "");
  const release = await readRelease(sysroot);
  return {
    ...(key === undefined ? {} : { key }),
    ...(model === undefined ? {} : { model }),
    ...(names.length > 0 ? { compatible: names } : {}),
    ...(release === undefined ? {} : { release }),
  };
}

async function deviceTree(sysroot: Sysroot, property: string): Promise<string | undefined> {
  return (
    (await sysroot.text(`/proc/device-tree/${property}`)) ??
    (await sysroot.text(`/sys/firmware/devicetree/base/${property}`))
  );
}

/** NVIDIA's system: "# R35 (release), REVISION: 3.1, ..." is L4T 35.3.1. */
async function readRelease(sysroot: Sysroot): Promise<string | undefined> {
  const text = (await sysroot.text("/etc/nv_tegra_release")) ?? "";
  const [, major, revision] = /^# R(\d+) \(release\), REVISION: ([\d.]+)/.exec(text) ?? [];
  return major === undefined ? undefined : `L4T ${major}.${revision}`;
}

/** Vendor and product of a PC. */
async function dmiName(sysroot: Sysroot): Promise<string> {
  const vendor = (await sysroot.text("/sys/class/dmi/id/sys_vendor")) ?? "";
  const product = (await sysroot.text("/sys/class/dmi/id/product_name")) ?? "";
  return `${vendor} ${product}`.trim();
}

/** Foreign text as a short name without control characters: it is shown on terminals and in HTML. */
function printable(text: string): string {
  return text
    .replace(/[\p{Cc}\uFFFD]+/gu, " ")
    .trim()
    .slice(0, 200);
}
