// A registered device that sends what no device sends, beside two honest ones: every message is refused with a code, the
// coordinator's log names its sender, the rounds close, and the model is the one of the honest devices alone.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { encodeFrame } from "../../broker/codec/frames.ts";
import type { Envelope } from "../../broker/index.ts";
import {
  type EncodedTensor,
  encodeAll,
  initialOf,
  type Payload,
  type Task,
} from "../../protocols/index.ts";
import { type HostileDevice, startHostileDevice } from "./hostile-device.ts";
import {
  type Federated,
  type Framework,
  federate,
  makeWorld,
  writeTask,
} from "./small-federation.ts";

const root = t.testdir();
const world = await makeWorld(root);
await mkdir(join(root, "runs"), { recursive: true });

/** The honest ones. */
const devices = [{ id: "a" }, { id: "b" }];

/** What is sent, and what the refusal must say. */
type BadMessage = readonly [name: string, payload: Payload, code: string, message: RegExp];

const hugeCount = { examples: 1e15, steps: 2 };
const honestCount = { examples: 16, steps: 2 };

/** What a framework's device would send, spoiled in one way each. */
const badMessages: Readonly<Record<Framework, (start: Payload) => readonly BadMessage[]>> = {
  full: ({ tensors }) => {
    const update = (tensors: Payload["tensors"], fields = honestCount): Payload => {
      return { kind: "update", fields, tensors };
    };
    const [name = ""] = tensors.keys();
    const spoiled = (tensor: EncodedTensor) => update(new Map([...tensors, [name, tensor]]));
    const { shape } = tensors.get(name) as EncodedTensor;
    const mismatch = /tensor "base_model\..*" has shape \[.*\], expected \[/;
    return [
      ["wrong shape", spoiled(filled([3, 5])), "PROTOCOL_SHAPE_MISMATCH", mismatch],
      ["NaN", spoiled(filled(shape, Number.NaN)), "PROTOCOL_TENSOR_INVALID", /value 0 .* finite/],
      ["oversized", spoiled(filled([1024, 1024])), "PROTOCOL_SHAPE_MISMATCH", mismatch],
      ["no tensors", update(new Map()), "PROTOCOL_SHAPE_MISMATCH", /is missing/],
      ["huge n", update(tensors, hugeCount), "PROTOCOL_PAYLOAD_INVALID", /"update": examples/],
    ];
  },
  kd: () => {
    const size = { classes: 2, rows: publicRows, kept: 2, isCounted: false, encoding: "float32" };
    const logits = (bytes: Uint8Array, fields: object = {}): Payload => {
      const blobs = new Map([["logits", bytes]]);
      return {
        kind: "knowledge",
        fields: { ...size, ...honestCount, ...fields },
        tensors: new Map(),
        blobs,
      };
    };
    const right = new Uint8Array(publicRows * 2 * 4);
    const code = "PROTOCOL_PAYLOAD_INVALID";
    return [
      ["wrong shape", logits(right, { rows: 5 }), code, /5 rows, expected 12/],
      ["NaN", logits(right.map(() => 0xff)), code, /row 0 holds values that are not finite/],
      ["oversized", logits(new Uint8Array(4 * 2 ** 20)), code, /bytes|bits/],
      ["many rows", logits(right, { rows: 1e15 }), code, /1000000000000000 rows, expected 12/],
      ["huge n", logits(right, hugeCount), code, /"knowledge": examples/],
    ];
  },
  split: () => {
    const lengths = [3, 3];
    const activations = (tensor: EncodedTensor, fields: object = {}): Payload => {
      const step = { step: 0, lengths, labels: [0, 1], squares: {}, ...fields };
      return { kind: "activations", fields: step, tensors: new Map([["activations", tensor]]) };
    };
    const right = [6, 32];
    const mismatch = /tensor "activations" has shape \[.*\], expected \[6, 32\]/;
    const update: Payload = {
      kind: "update",
      fields: { ...hugeCount, squares: {} },
      tensors: new Map(),
    };
    const code = "PROTOCOL_PAYLOAD_INVALID";
    return [
      ["wrong shape", activations(filled([6, 31])), "PROTOCOL_SHAPE_MISMATCH", mismatch],
      [
        "NaN",
        activations(filled(right, Number.NaN)),
        "PROTOCOL_TENSOR_INVALID",
        /activations: value 0/,
      ],
      ["oversized", activations(filled([1024, 1024])), "PROTOCOL_SHAPE_MISMATCH", mismatch],
      ["many tokens", activations(filled(right), { lengths: [3, 1e9] }), code, /tokens/],
      ["huge n", update, code, /"update": examples/],
    ];
  },
};

/** Public texts of the world. */
const publicRows = 12;

/** Bytes by hand: no encoder takes what is not finite. */
function filled(shape: readonly number[], value = 0): EncodedTensor {
  const count = shape.reduce((product, size) => product * size, 1);
  const bytes = new Uint8Array(new Float32Array(count).fill(value).buffer);
  return { shape, encoding: "float32", bytes };
}

/** What became of a message. */
interface Refusal {
  readonly name: string;
  readonly code: string;
  readonly message: string;
}

for (const framework of ["full", "kd", "split"] as const) {
  t.test(`${framework}: what a hostile device sends is refused and counts nothing`, async (t) => {
    const protocol = { protocol: framework, ...(framework === "split" && { cutLayer: 1 }) };
    const task = await writeTask(world, framework, {
      cohort: { minimumDevices: 2 },
      training: { localSteps: 2 },
      full: { encoding: "float32" },
      kd: { distillationSteps: 1, encoding: "float32" },
      split: { activations: "float32", gradients: "float32" },
      assignments: ["a", "b", "hostile"].map((id) => ({ devices: [id], ...protocol, force: true })),
    });
    const run = (name: string) => join(root, "runs", `${framework}-${name}`);
    const honest = await federate(world, { task, run: run("honest"), devices });
    const { troubled, waves } = await federateWithHostile(framework, task, run("troubled"));

    t.equal(waves.length, 2, "it was asked in both rounds");
    const named = troubled.log.filter((line) => /^coordinator: .*hostile/.test(line)).join("\n");
    for (const { refusals, expected } of waves) {
      t.equal(refusals.length, expected.length);
      t.match(refusals, expected);
      for (const { message } of refusals) t.ok(named.includes(message), `is logged: ${message}`);
    }
    t.match(named, /refused a frame .*hostile\/up: a message of 4000000000 bytes exceeds/);
    t.same(roundsOf(troubled), [
      [1, ["a", "b"]],
      [2, ["a", "b"]],
    ]);
    t.ok(troubled.adapter.equals(honest.adapter), "not a byte of the adapter differs");
    t.equal(troubled.result.accuracy, honest.result.accuracy);
  });
}

function roundsOf({ events }: Federated): unknown {
  return events.flatMap((event) =>
    event.kind === "closed" ? [[event.round, event.accepted]] : [],
  );
}

/** What came of the messages of one lane, and what should have. */
interface Wave {
  readonly refusals: readonly Refusal[];
  readonly expected: readonly object[];
}

/** A hostile device among the honest ones; it gives each round up once they have reported. */
async function federateWithHostile(
  framework: Framework,
  task: string,
  run: string,
): Promise<{ readonly troubled: Federated; readonly waves: readonly Wave[] }> {
  const signals = createSignals();
  const waves: Promise<Wave>[] = [];
  let hostile: HostileDevice | undefined;
  const wave = async (start: Envelope, device: HostileDevice): Promise<Wave> => {
    const { round, attempt, lane } = start;
    const messages = badMessages[framework](firstMessage(framework, device.task()));
    const refusals = await attack(start, device, messages);
    await signals.until((events) => reportsIn(events) === devices.length * round);
    // Only now may the round end: both honest devices are in it.
    const fields = { code: "HOSTILE", message: "enough" };
    await device.link.request({ round, attempt, lane, kind: "failed", fields });
    const expected = messages.map(([name, , code, message]) => ({ name, code, message }));
    return { refusals, expected: [...expected, ...commonRefusals] };
  };
  const troubled = await federate(world, {
    task,
    run,
    devices,
    addressFor: async (url) => {
      hostile = await startHostileDevice({
        url,
        id: "hostile",
        onStart: (start, device) => waves.push(wave(start, device)),
      });
      await signals.until((events) => events.some(({ kind }) => kind === "assigned"));
      return url;
    },
    onEvent: signals.note,
  });
  const ended = await Promise.all(waves);
  await hostile?.close();
  return { troubled, waves: ended };
}

/** Refusals of what is wrong whatever the framework is. */
const commonRefusals = [
  { name: "wrong lane", code: "LANE_STALE", message: /of hostile is stale/ },
  { name: "unknown payload", code: "PROTOCOL_PAYLOAD_INVALID", message: /unknown message "dance"/ },
  { name: "unknown request", code: "ENVELOPE_INVALID", message: /"dance" message of hostile/ },
  { name: "far ahead", code: "ENVELOPE_INVALID", message: /message 1000000 of lane .* of hostile/ },
];

/** Sends every bad message of a lane, one after the other. */
async function attack(
  { round, attempt, lane, task }: Envelope,
  { link, transport, outbound }: HostileDevice,
  messages: readonly BadMessage[],
): Promise<Refusal[]> {
  const place = { round, attempt, lane, task };
  const refusals: Refusal[] = [];
  const say = async (name: string, request: Parameters<typeof link.request>[0]): Promise<void> => {
    const outcome = await link.request({ ...place, ...request }).then(
      () => ({ code: "TAKEN", message: "" }),
      ({ code, message }) => ({ code, message }),
    );
    refusals.push({ name, ...outcome });
  };
  let sequence = 0;
  const inLane = ({ kind, fields, tensors, blobs = new Map() }: Payload) => {
    sequence += 1;
    const payload = { kind, fields };
    return { kind: "lane", fields: { laneSequence: sequence, payload }, tensors, blobs };
  };
  for (const [name, payload] of messages) await say(name, inLane(payload));
  const dance: Payload = { kind: "dance", fields: {}, tensors: new Map() };
  const { fields: first } = inLane(dance);
  await say("wrong lane", { kind: "lane", lane: lane + 7, fields: first });
  sequence -= 1;
  await say("unknown payload", inLane(dance));
  await say("unknown request", { kind: "dance" });
  await say("far ahead", { kind: "lane", fields: { ...first, laneSequence: 1e6 } });
  // A first chunk that promises four gigabytes gets no answer: the messages after it show that nothing waits for them.
  const { replyTo } = await link.request({ kind: "public-set" });
  const chunk = { kind: "chunk", isBody: false, offset: 0, totalBytes: 4e9 } as const;
  const identity = { instance: replyTo?.instance ?? "", message: "f".repeat(16) };
  const payload = new Uint8Array(4096);
  await transport.publish(outbound, encodeFrame({ ...chunk, ...identity, payload }));
  return refusals;
}

/** The tensors that a `full` device begins with, in float32. */
function firstMessage(framework: Framework, task: Task): Payload {
  const tensors = framework === "full" ? encodeAll(initialOf(task), "float32") : new Map();
  return { kind: "start", fields: {}, tensors };
}

function reportsIn(events: readonly RunEvent[]): number {
  return events.filter(({ kind }) => kind === "reported").length;
}

/** The events of a run, and waiting for one. */
function createSignals() {
  const events: RunEvent[] = [];
  const watchers = new Set<() => void>();
  return {
    note: (event: RunEvent): void => {
      events.push(event);
      for (const watch of [...watchers]) watch();
    },
    until: (isSo: (events: readonly RunEvent[]) => boolean): Promise<void> =>
      new Promise((resolve) => {
        const watch = (): void => {
          if (!isSo(events)) return;
          watchers.delete(watch);
          resolve();
        };
        watchers.add(watch);
        watch();
      }),
  };
}
