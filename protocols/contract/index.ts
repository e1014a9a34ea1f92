// What every protocol must do, checked the same way for ours and for yours. Neutral to test frameworks: it
// takes anything with `test`, such as tap's `t`, and reports through the `ok` that its bodies are given.
import { type Example, TrifoldError } from "../../runtime/index.ts";
import type { Payload } from "../protocol.ts";
import type { AnyProtocol } from "../registry.ts";
import { wayOf } from "../way.ts";
import {
  type ContractSetting,
  clientContext,
  isSame,
  openLane,
  openServer,
  type PlayedRound,
  type PlayOptions,
  playRound,
} from "./bench.ts";
import { spoiled } from "./spoiled.ts";
import { watchedEngine } from "./watched-engine.ts";

export type { ContractSetting } from "./bench.ts";

/** What a check reports to; a false value fails the test. */
export interface ContractTest {
  ok(value: unknown, text: string): unknown;
}

/** What runs tests. */
export interface ContractRunner {
  test(title: string, body: (t: ContractTest) => Promise<void>): unknown;
}

/** Holds a protocol to the contract of the seam: one test for each rule. */
export function protocolContract(
  runner: ContractRunner,
  protocol: AnyProtocol,
  setting: ContractSetting,
): void {
  for (const [rule, check] of Object.entries(rules)) {
    runner.test(`${protocol.name}: ${rule}`, (t) => check(t, protocol, setting));
  }
}

type Check = (t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) => Promise<void>;

const rules: Readonly<Record<string, Check>> = {
  "every message passes its own parser unchanged": messages,
  "an unknown message is refused at both ends": unknownMessages,
  "the same round gives the same bytes again": repeats,
  "lanes at once give what they give alone": concurrency,
  "a refused message leaves no trace": refusals,
  "an aborted round rejects with the signal's reason": aborts,
  "a lane has no result before the delivery, nor takes one after it": delivery,
  "a resumable lane is restored by its messages": replay,
  "closing frees every session and may be repeated": closing,
  "the estimate is what a round takes": estimates,
};

async function messages(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  for (const after of [0, 1]) {
    const { first, ups, downs, result } = await play(protocol, setting, { after });
    t.ok(result, `round ${after + 1} yields a result`);
    for (const [parse, sent] of [
      [protocol.parseUp, ups],
      [protocol.parseDown, [first, ...downs]],
    ] as const) {
      for (const payload of sent) {
        t.ok(isSame(parse(structuredClone(payload)), payload), `"${payload.kind}" is unchanged`);
        const rawBytes = protocol.rawBytes(payload);
        t.ok(Number.isSafeInteger(rawBytes) && rawBytes >= 0, `"${payload.kind}" has a raw size`);
      }
    }
  }
}

async function unknownMessages(t: ContractTest, protocol: AnyProtocol) {
  for (const parse of [protocol.parseUp, protocol.parseDown]) {
    for (const kind of ["no such kind", "__proto__", ""]) {
      const error = await failureOf(async () => parse({ kind, fields: {}, tensors: new Map() }));
      t.ok(codeOf(error) === "PROTOCOL_PAYLOAD_INVALID", `"${kind}" is PROTOCOL_PAYLOAD_INVALID`);
    }
  }
}

async function repeats(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const [one, other] = [await play(protocol, setting), await play(protocol, setting)];
  t.ok(isSame(one, other), "messages, result and report are equal to the bit");
}

async function concurrency(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const ids = ["a", "b", "c"];
  const server = await openServer(protocol, setting, setting.engine);
  const alone: PlayedRound[] = [];
  for (const deviceId of ids) alone.push(await playRound(protocol, setting, server, { deviceId }));
  const atOnce = await Promise.all(
    ids.map((deviceId) => playRound(protocol, setting, server, { deviceId })),
  );
  await server.close();
  t.ok(isSame(alone, atOnce), "three devices at once do what they do one after another");
}

async function refusals(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const clean = await play(protocol, setting, { after: 1 });
  const disturbed = await play(protocol, setting, {
    after: 1,
    before: async (up, lane) => {
      for (const { what, payload } of spoiled(up)) {
        const signal = new AbortController().signal;
        const error = await failureOf(async () => lane.receive(protocol.parseUp(payload), signal));
        t.ok(codeOf(error), `"${up.kind}" with ${what} is refused with a code`);
      }
    },
  });
  t.ok(isSame(clean, disturbed), "the round goes on as if they had not come");
}

async function aborts(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const { engine, runs } = watchedEngine(setting.engine);
  await play(protocol, setting, { engine });
  const last = runs();
  for (const run of new Set([0, 1, Math.ceil(last / 2), last - 1])) {
    const controller = new AbortController();
    const reason = new Error(`stopped at run ${run}`);
    if (run === 0) controller.abort(reason);
    const stopping = watchedEngine(setting.engine, (now) => {
      if (now === run) controller.abort(reason);
    });
    const options = { engine: stopping.engine, signal: controller.signal };
    const error = await failureOf(() => play(protocol, setting, options));
    t.ok(error === reason, `stopped at run ${run} of ${last}, the round rejects with the reason`);
  }
}

async function delivery(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const server = await openServer(protocol, setting, setting.engine);
  const lane = await openLane(protocol, setting, server);
  t.ok((await lane.finish()) === undefined, "nothing came, nothing is there");
  const finished: unknown[] = [];
  const { ups, result } = await playRound(protocol, setting, server, {
    before: async (_up, opened) => {
      finished.push(await opened.finish());
    },
  });
  t.ok(finished.length > 0 && finished.every((early) => early === undefined), "nothing early");
  t.ok(result, "the last message completes it");
  await lane.close();
  await server.close();
  const signal = new AbortController().signal;
  const another = await openServer(protocol, setting, setting.engine);
  const second = await openLane(protocol, setting, another);
  for (const up of ups) await second.receive(protocol.parseUp(up), signal);
  const again = await failureOf(async () =>
    second.receive(protocol.parseUp(ups.at(-1) as Payload), signal),
  );
  t.ok(codeOf(again) === "PROTOCOL_OUT_OF_TURN", "a second delivery is PROTOCOL_OUT_OF_TURN");
  t.ok(isSame(await second.finish(), result), "and changes nothing");
  await second.close();
  await another.close();
}

async function replay(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const { ups, result } = await play(protocol, setting);
  const server = await openServer(protocol, setting, setting.engine);
  const lane = await openLane(protocol, setting, server);
  if (!lane.resumable) {
    t.ok(true, "this lane is not resumable: the coordinator begins it again");
  } else {
    const signal = new AbortController().signal;
    for (const up of ups) await lane.receive(protocol.parseUp(structuredClone(up)), signal);
    t.ok(isSame(await lane.finish(), result), "a new lane fed the same messages has the result");
  }
  await lane.close();
  await server.close();
}

async function closing(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const { engine, openSessions } = watchedEngine(setting.engine);
  const server = await openServer(protocol, setting, engine);
  const lane = await openLane(protocol, setting, server);
  const client = await protocol.createClient({ ...clientContext(protocol, setting), engine });
  for (const end of [client, client, lane, lane, server, server]) await end.close();
  t.ok(openSessions() === 0, `${openSessions()} sessions are left open`);
}

async function estimates(t: ContractTest, protocol: AnyProtocol, setting: ContractSetting) {
  const { task, train, holdOut } = setting;
  const textTokens = meanTokens([...train, ...holdOut], task.training.sequenceLength);
  const sizes = { holdOut: holdOut.length, textTokens };
  const cost = protocol.estimate(task, { ...sizes, ...wayOf(setting) });
  const { first, ups, downs, report } = await play(protocol, setting, { after: 1 });
  t.ok(cost.flops === report.flops, `${cost.flops} FLOPs estimated, ${report.flops} counted`);
  for (const [direction, estimated, sent] of [
    ["up", cost.uplinkBytes, ups],
    ["down", cost.downlinkBytes, [first, ...downs]],
  ] as const) {
    const actual = sent.map(bodyBytes).reduce((sum, bytes) => sum + bytes, 0);
    // Fields and frames come on top and are small beside the body; a tenth is what a budget can bear.
    const close = Math.abs(estimated - actual) <= 0.1 * actual;
    t.ok(close, `${estimated} bytes ${direction} estimated, ${actual} sent`);
  }
  t.ok(cost.peakMemoryBytes > 0 && cost.roundTrips > 0, "memory and round trips are positive");
}

/** One round with a coordinator end of its own. */
async function play(protocol: AnyProtocol, setting: ContractSetting, options: PlayOptions = {}) {
  const server = await openServer(protocol, setting, setting.engine);
  try {
    return await playRound(protocol, setting, server, options);
  } finally {
    await server.close();
  }
}

/** Mean length of texts as they are cut to the sequence. */
function meanTokens(texts: readonly Example[], sequenceLength: number): number {
  const lengths = texts.map(({ tokens }) => Math.min(tokens.length, sequenceLength));
  return lengths.reduce((sum, length) => sum + length, 0) / texts.length;
}

/** Bytes of a message's tensors and blobs. */
function bodyBytes({ tensors, blobs = new Map() }: Payload): number {
  const parts = [...[...tensors.values()].map(({ bytes }) => bytes), ...blobs.values()];
  return parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

async function failureOf(action: () => Promise<unknown>): Promise<unknown> {
  try {
    await action();
  } catch (error) {
    return error;
  }
  return undefined;
}

function codeOf(error: unknown): string | undefined {
  return error instanceof TrifoldError ? error.code : undefined;
}
