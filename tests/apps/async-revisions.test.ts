// What the rounds of an asynchronous federation show of its devices: a failure moves a device, and what it learned in its new
// way it keeps from its next lane on.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { positionOf } from "../../apps/coordinator/recovery.ts";
import { createRoundLink, type Envelope } from "../../broker/index.ts";
import { encodeAll } from "../../protocols/encoding/index.ts";
import { initialOf, type Payload } from "../../protocols/index.ts";
import { type HostileDevice, startHostileDevice } from "./hostile-device.ts";
import { federate, makeWorld, writeTask } from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
await mkdir(join(root, "runs"), { recursive: true });

const report = {
  ...{ examples: 16, examplesSeen: 12, steps: 3, loss: 1, flops: 1, trainSeconds: 0.1 },
  ...{ peakMemoryBytes: 1, idleMemoryBytes: 1, uplinkBytes: 1, downlinkBytes: 1 },
  ...{ rawUplinkBytes: 1, rawDownlinkBytes: 1, provisioningBytes: 0, repeatedBytes: 0 },
};

/** Delivers an update that changes nothing, and reports. */
async function deliver({ round, attempt, lane, task }: Envelope, device: HostileDevice) {
  const { link } = device;
  const place = { round, attempt, lane };
  const { signal } = new AbortController();
  const parseDown = (payload: Payload) => payload;
  const initial = initialOf(device.task());
  const zeros = [...initial].map(([name, { shape, data }]) => {
    return [name, { dtype: "float32", shape, data: new Float32Array(data.length) }] as const;
  });
  const tensors = encodeAll(new Map(zeros), "float32");
  const fields = { examples: 16, steps: 3 };
  const messages = createRoundLink({ link, task, place, parseDown, signal });
  await messages.send({ kind: "update", fields, tensors });
  await link.request({ ...place, kind: "report", fields: report });
}

t.test("a device that fails is moved, and drops what was of its former way once", async (t) => {
  const task = await writeTask(world, "moved", {
    training: { rounds: 4 },
    asynchronous: { buffer: 4 },
    cohort: { minimumDevices: 2 },
    execution: { modes: ["whole-float32", "blocks-float32"] },
    full: { encoding: "float32" },
  });
  const starts: unknown[] = [];
  let x: HostileDevice | undefined;
  let onAssigned = () => {};
  const assigned = new Promise<void>((resolve) => {
    onAssigned = resolve;
  });
  const onStart = async (start: Envelope, device: HostileDevice): Promise<void> => {
    const { round, attempt, lane } = start;
    const { mode, isReassigned } = start.fields;
    starts.push([lane, mode, isReassigned]);
    if (lane !== 2) return deliver(start, device);
    const fields = { code: "SESSION_FAILED", message: "it broke" };
    await device.link.request({ round, attempt, lane, kind: "failed", fields });
  };
  const { records, events } = await federate(world, {
    task,
    run: join(root, "runs", "moved"),
    devices: [{ id: "a" }],
    addressFor: async (url) => {
      // What it says after the run has ended is nobody's business.
      const speak = (start: Envelope, device: HostileDevice) =>
        void onStart(start, device).catch(() => {});
      x = await startHostileDevice({ url, id: "x", onStart: speak });
      await assigned;
      return url;
    },
    onEvent: (event: RunEvent) => {
      if (event.kind === "assigned") onAssigned();
      if (event.kind === "finished") void x?.close();
    },
  });
  const missed = records.filter(({ kind }) => kind === "missed");
  t.match(missed, [{ deviceId: "x", lane: 2, failure: "SESSION_FAILED" }]);
  t.match(
    events.filter(({ kind }) => kind === "revised"),
    [{ deviceId: "x", from: "full", to: "full (blocks-float32)", because: /SESSION_FAILED/ }],
  );
  t.same(starts.slice(0, 4), [
    [1, undefined, false],
    [2, undefined, false],
    [3, "blocks-float32", true],
    [4, "blocks-float32", false],
  ]);
});

t.test("a lane that was given up is not gone on with after a restart", async (t) => {
  const assignment = { deviceId: "x", protocol: "full", protocolVersion: 1, reason: "" };
  const place = { deviceId: "x", round: 1, lane: 1 };
  const position = positionOf(
    [
      { kind: "round", round: 1, attempt: 1 },
      { kind: "lane", ...place, attempt: 1, assignment, resumable: true },
      { kind: "missed", ...place, failure: "SESSION_FAILED" },
    ],
    { isAsynchronous: true },
  );
  t.equal(position.lanes.size, 0);
  t.equal(position.lastLanes.get("x"), 1);
});
