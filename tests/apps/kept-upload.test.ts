// A device that loses its power between training and delivery: what it trained is on its disk, and is delivered when it comes back.
import { existsSync, readdirSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { createUploadKeeper } from "../../apps/device/kept-upload.ts";
import { startHop } from "../broker/network.ts";
import { deviceOf, kill } from "./killed-run.ts";
import type { Running } from "./program.ts";
import { adapterOf, federate, makeWorld, type SmallDevice, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
const run = (name: string) => join(root, "runs", name);
await mkdir(run(""), { recursive: true });

for (const framework of ["full", "kd"] as const) {
  t.test(`${framework}: what was trained before a power cut is delivered after it`, async (t) => {
    const b: SmallDevice = { id: "b", framework };
    const task = await writeTask(world, framework, { cohort: { minimumDevices: 2 } });
    const whole = { task, run: run(`${framework}-whole`), devices: [{ id: "a" }, b] };
    const undisturbed = await federate(world, whole);
    const folder = run(framework);
    let back: Running | undefined;
    let restarted: Promise<void> | undefined;
    const { adapter, records, events } = await federate(world, {
      task,
      run: folder,
      devices: [{ id: "a" }],
      addressFor: async (url) => {
        const hop = await startHop(Number(new URL(url).port));
        t.teardown(() => hop.close());
        const place = { world, task, folder };
        const first = await deviceOf(t, place, b, `mqtt://127.0.0.1:${hop.port}`);
        const restart = async (): Promise<void> => {
          await first.said(/round 1: /);
          const state = join(`${folder}-devices`, "b-state");
          // The public texts come within the round.
          if (framework === "kd") await fileIn(state, /public.[0-9a-f]{64}$/);
          hop.cut();
          await fileIn(state, /upload\.envelope$/);
          await kill(first);
          back = await deviceOf(t, place, b, url);
        };
        restarted = restart();
        return url;
      },
    });
    await restarted;
    const { status, stderr = "" } = (await back?.finished) ?? {};
    t.equal(status, 0, stderr);
    t.match(stderr, /delivering what was trained before this start/);
    const lanes = records.flatMap((one) =>
      one.kind === "lane" ? [`${one.deviceId} ${one.lane}`] : [],
    );
    t.same(lanes.sort(), ["a 1", "a 2", "b 1", "b 2"], "trained once a round");
    t.equal(events.filter(({ kind }) => kind === "reported").length, 4, "and reported");
    t.ok(adapter.equals(undisturbed.adapter));
    t.ok((await adapterOf(folder)).equals(undisturbed.adapter));
  });
}

t.test("a kept upload comes back as it was, and a damaged one is none", async (t) => {
  const folder = t.testdir();
  const keeper = createUploadKeeper(folder, "b");
  t.equal(await keeper.read(), undefined);
  const tensor = { shape: [2], encoding: "bf16", bytes: Uint8Array.of(1, 2, 3, 4) } as const;
  const up = { kind: "update", fields: { steps: 2 }, tensors: new Map([["w", tensor]]) };
  const counts = { examples: 3, examplesSeen: 6, steps: 2, loss: 0.5, flops: 10, trainSeconds: 1 };
  const bytes = { uplinkBytes: 1, downlinkBytes: 1, rawUplinkBytes: 1, rawDownlinkBytes: 1 };
  const others = { peakMemoryBytes: 1, idleMemoryBytes: 1, provisioningBytes: 0, repeatedBytes: 0 };
  const report = { ...counts, ...bytes, ...others };
  const kept = { place: { round: 2, attempt: 1, lane: 5 }, sequence: 2, up, report };
  await keeper.keep(kept);
  t.match(await keeper.read(), kept);
  const file = join(folder, readdirSync(folder)[0] ?? "");
  const whole = await readFile(file);
  await writeFile(file, whole.subarray(0, 100));
  t.equal(await keeper.read(), undefined);
  await keeper.forget();
  t.same(readdirSync(folder), []);
});

/** Resolves once the folder has such a file. */
async function fileIn(folder: string, name: RegExp): Promise<void> {
  const isThere = () =>
    existsSync(folder) &&
    readdirSync(folder, { recursive: true }).some((path) => name.test(String(path)));
  while (!isThere()) await sleep(5);
}
