// For every framework and each option that changes what travels: no text of a private row is among the bytes, and devices
// report as many bytes as passed.
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { openTokenizer } from "../../runtime/index.ts";
import { findings, seenOnWire } from "./canaries.ts";
import { type CountedBytes, countedBytes } from "./counted-bytes.ts";
import {
  type Federated,
  federate,
  frameworksOf,
  makeWorld,
  type SmallDevice,
  smallTexts,
  writeTask,
} from "./small-federation.ts";
import { startWiretap, type Wiretap } from "./wiretap.ts";

const world = await makeWorld(t.testdir());
const tokenizer = await openTokenizer(world.modelFolder);
const canaries = { a: "xylographaquokka", b: "xylographbquokka", c: "xylographcquokka" };
/** One that everybody may see, to prove that the search finds what is there. */
const publicCanary = "zeugmaticbandicoot";
await appendFile(join(world.folder, "public.csv"), `"the ${publicCanary} and the ship",sea\n`);

/** What the devices a, b and c do, and how. */
type Row = readonly [name: string, devices: readonly string[], settings: object];

const rows: readonly Row[] = [
  ["full at four bits", ["full"], { full: { encoding: "int4" } }],
  [
    "full, largest values of some devices",
    ["full"],
    { full: { encoding: "topk" }, cohort: { minimumDevices: 2, fraction: 0.5 } },
  ],
  ["full, gradients", ["full"], { full: { mode: "gradients", encoding: "int8" } }],
  ["kd, adaptive slices", ["kd"], { kd: { topK: "adaptive", sliceSize: 5, encoding: "int8" } }],
  ["split, int8 with outliers", ["split"], { split: { activations: "int8", outliers: 0.05 } }],
  [
    "split, reuse and error feedback",
    ["split"],
    {
      // 16 of 19 texts, four at once: the second pass over them begins in the first round.
      training: { rounds: 2, localSteps: 6 },
      split: { reuse: { threshold: "adaptive" }, gradients: "int4", errorFeedback: true },
    },
  ],
  ["split, largest gradients", ["split"], { split: { gradients: "topk", errorFeedback: true } }],
  ["U-shape", ["split"], { split: { uShape: true }, labelsMayLeave: false }],
  ["all three", ["full", "kd", "split"], { full: { encoding: "int8" } }],
  ["language model", ["full", "split"], { head: { kind: "lm" }, split: { uShape: true } }],
];

for (const [name, frameworks, settings] of rows) {
  t.test(name, async (t) => {
    const ids = ["a", "b", "c"] as const;
    const frameworkOf = (i: number) => frameworks[i % frameworks.length] as string;
    const file = name.replace(/\W+/g, "-");
    const task = await writeTask(world, file, {
      training: { rounds: 2, localSteps: 2 },
      cohort: { minimumDevices: 3 },
      // With figures set aside: which device does what is the row's to say.
      assignments: ids.map((id, i) => {
        const cut = frameworkOf(i) === "split" ? { cutLayer: 1 } : {};
        return { devices: [id], protocol: frameworkOf(i), ...cut, force: true };
      }),
      ...settings,
    });
    const devices = ids.map((id): SmallDevice => {
      return { id, rows: [...smallTexts(id, 18), [`the ${canaries[id]}`, "sea"]] };
    });
    const taps: Wiretap[] = [];
    const federated = await federate(world, {
      task,
      run: join(world.folder, "runs", file),
      devices,
      addressFor: async (url) => {
        const tap = await startWiretap(Number(new URL(url).port));
        taps.push(tap);
        return tap.url;
      },
    });
    const wire = await seenOnWire(taps);
    for (const id of ids) {
      const counted = await countedBytes(taps[0] as Wiretap, id);
      t.same(sumOf(reportedBytes(federated, id)), sumOf(counted), `all bytes of ${id}`);
      // What fetching the public set takes counts apart, both ways in one figure.
      if (frameworkOf(ids.indexOf(id)) !== "kd") t.same(reportedBytes(federated, id), counted, id);
    }
    for (const tap of taps) await tap.close();
    const used = Object.values(frameworksOf(federated)).map((label) => label.split(" ")[0]);
    t.same(
      used,
      ids.map((_, i) => frameworkOf(i)),
    );
    if (used.includes("kd")) t.same(findings(publicCanary, wire, tokenizer.encode), ["utf8"]);
    for (const canary of Object.values(canaries)) {
      t.same(findings(canary, wire, tokenizer.encode), [], canary);
    }
  });
}

/** What a device's reports say of all its rounds. */
function reportedBytes({ records }: Federated, id: string): CountedBytes {
  const bytes = { up: 0, down: 0 };
  for (const record of records) {
    if (record.kind !== "report" || record.deviceId !== id) continue;
    const { uplinkBytes, downlinkBytes, provisioningBytes } = record.report;
    bytes.up += uplinkBytes;
    bytes.down += downlinkBytes + provisioningBytes;
  }
  return bytes;
}

function sumOf({ up, down }: CountedBytes): number {
  return up + down;
}
