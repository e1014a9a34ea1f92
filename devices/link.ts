// A cautious guess of the link from the kernel's view of the network interface, for profiles made before
// there is a broker to measure against. Every figure of it is labelled "estimated".
import type { LinkFigures } from "./profile.ts";
import type { Sysroot } from "./sysroot.ts";

/** Figures of the interface with the default route, or of any that is up; undefined when there is none to tell from. */
export async function estimateLink(sysroot: Sysroot): Promise<LinkFigures | undefined> {
  const names = (await sysroot.list("/sys/class/net")).filter((name) => name !== "lo");
  const routed = await defaultInterface(sysroot);
  for (const name of routed !== undefined && names.includes(routed) ? [routed] : names) {
    const folder = `/sys/class/net/${name}`;
    if ((await sysroot.text(`${folder}/operstate`)) === "down") continue;
    if ((await sysroot.list(`${folder}/wireless`)).length > 0) return wireless;
    // Ethernet's speed in Mbit/s; -1 or unreadable on virtual interfaces.
    const megabits = await sysroot.number(`${folder}/speed`);
    if (megabits !== undefined && megabits > 0) return estimatedLink(0.94 * megabits * 1e6, 1);
  }
  return undefined;
}

/** Figures in both directions, labelled as estimates. */
export function estimatedLink(bitsPerSecond: number, roundTripMs: number): LinkFigures {
  return {
    uplinkBitsPerSecond: { value: bitsPerSecond, origin: "estimated" },
    downlinkBitsPerSecond: { value: bitsPerSecond, origin: "estimated" },
    roundTripMs: { value: roundTripMs, origin: "estimated" },
  };
}

// The lower end of what boards reach on 2.4 GHz WiFi.
const wireless = estimatedLink(20e6, 5);

/** The interface of the route to 0.0.0.0 in `/proc/net/route`. */
async function defaultInterface(sysroot: Sysroot): Promise<string | undefined> {
  return /^(\S+)\t00000000\t/m.exec((await sysroot.text("/proc/net/route")) ?? "")?.[1];
}
