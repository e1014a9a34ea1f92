// Suite `pipeline`: what `split.pipeline` spares on a link whose round trip is emulated, and what the delay of a step costs.
// Device and coordinator are in this process with an engine of one thread each; every message waits half a round trip each way.
import { setTimeout as sleep } from "node:timers/promises";
import { pairedRatios, summarise } from "../apps/bench/statistics.ts";
import { defaultCacheFolder } from "../apps/cache-folder.ts";
import { DEMO_LABELS } from "../apps/demo/dataset.ts";
import { examplesOf } from "../apps/examples.ts";
import { type ModelAndTokenizer, openModelAndTokenizer } from "../apps/model-and-tokenizer.ts";
import { embeddedModelFolder } from "../apps/package-root.ts";
import { systemClock } from "../broker/index.ts";
import {
  type AnyProtocol,
  builtInProtocols,
  foldRound,
  type GlobalModel,
  initialOf,
  type Lane,
  type LaneResult,
  loopbackLink,
  modelSpec,
  type Payload,
  type RoundLink,
  rowsInMemory,
  type Task,
  taskSchema,
} from "../protocols/index.ts";
import { type Example, loadScorer, ortEngine, randomStream } from "../runtime/index.ts";
import { type Ground, openGround } from "./frameworks/plans.ts";
import { row } from "./frameworks/study.ts";
import type { Row } from "./row.ts";

/** Round trips of a near and of a far link. */
const roundTrips = [50, 200];
const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;
const command = "npm run bench -- pipeline";

/** Seconds of a step and accuracy with and without, over the seeds. */
export async function pipelineRows({
  seeds,
  log,
}: {
  readonly seeds: number;
  readonly log: (message: string) => void;
}): Promise<readonly Row[]> {
  const ground = await openGround(seeds);
  const opened = await openModelAndTokenizer(embeddedModelFolder(), defaultCacheFolder());
  const rows: Row[] = [];
  for (const roundTripMs of roundTrips) {
    const runs: Record<"plain" | "ahead", Run[]> = { plain: [], ahead: [] };
    for (const seed of ground.seeds) {
      for (const kind of ["plain", "ahead"] as const) {
        const task = taskOf(opened, seed, kind === "ahead");
        const run = await train(task, { ground, opened, roundTripMs });
        log(`${roundTripMs} ms, seed ${seed}, ${kind}: ${run.stepSeconds} s, ${run.accuracy}`);
        runs[kind].push(run);
      }
    }
    rows.push(...rowsOf(`split, cut 2, ${roundTripMs} ms round trip`, runs));
  }
  return rows;
}

interface Run {
  /** Median of all steps. */
  readonly stepSeconds: number;
  /** Of the global model, percent. */
  readonly accuracy: number;
}

function rowsOf(
  figure: string,
  { plain, ahead }: Readonly<Record<"plain" | "ahead", readonly Run[]>>,
): Row[] {
  const seconds = (runs: readonly Run[]) => runs.map(({ stepSeconds }) => stepSeconds);
  const lost = plain.map(({ accuracy }, i) => accuracy - (ahead[i]?.accuracy ?? Number.NaN));
  const shares = pairedRatios(seconds(ahead), seconds(plain)).map((ratio) => 100 * ratio);
  return [
    row(`${figure}: a step`, "s", seconds(plain)),
    row(`${figure}: a step with split.pipeline`, "s", seconds(ahead)),
    row(`${figure}: one with of one without`, "%", shares),
    row(
      `${figure}: accuracy`,
      "%",
      plain.map(({ accuracy }) => accuracy),
    ),
    row(`${figure}: lost with split.pipeline`, "points", lost),
  ].map((one) => ({ ...one, command }));
}

/** Speeches told apart by their century, as in suite `frameworks`. */
function taskOf({ model, tokenizer }: ModelAndTokenizer, seed: number, pipeline: boolean): Task {
  const settings = taskSchema.parse({
    name: "speeches",
    seed,
    head: { kind: "classification", labels: [...DEMO_LABELS] },
    training: { rounds: 4, localSteps: 16 },
    labelsMayLeave: true,
    selection: { order: ["split"] },
    full: { encoding: "float32" },
    split: { pipeline },
  });
  const { sha256: modelSha256, config } = model;
  return { ...settings, manifest: { modelSha256, tokenizerSha256: tokenizer.sha256, config } };
}

interface Place {
  readonly ground: Ground;
  readonly opened: ModelAndTokenizer;
  readonly roundTripMs: number;
}

async function train(task: Task, { ground, opened, roundTripMs }: Place): Promise<Run> {
  const { model } = opened;
  const [deviceEngine, engine] = [ortEngine({ threads: 1 }), ortEngine({ threads: 1 })];
  const { speeches } = ground;
  const rows = randomStream(task.seed, "pipeline").shuffle(speeches.train).slice(0, 400);
  const [examples, test] = [rows, speeches.test].map((some) => tokenised(task, opened, some));
  const log = () => {};
  const way = { protocol: "split", protocolVersion: split.version, cutLayer: 2 };
  const place = { deviceId: "a", ...way, reason: "" };
  const client = await split.createClient({
    ...{ task, deviceId: "a", assignment: place, engine: deviceEngine, model, log },
    ...{ train: examples ?? [], holdOut: [], publicSet: async () => [] },
    state: { read: async () => undefined, stage: async () => {} },
    rows: rowsInMemory(),
  });
  const { after } = systemClock;
  const context = { task, engine, model, publicSet: [], rowsOf: rowsInMemory, after, log };
  const server = await split.createServer(context);
  const { rounds, localSteps } = task.training;
  const { signal } = new AbortController();
  let global: GlobalModel = { round: 0, parameters: initialOf(task) };
  /** From each step's message to the next one's. */
  const seconds: number[] = [];
  while (global.round < rounds) {
    const { round } = global;
    const position = { round: round + 1, attempt: 1, lane: round + 1, acceptedLane: round };
    const info = { ...position, globalStep: round * localSteps };
    const lane = await server.openLane(place, info, global);
    const asked: number[] = [];
    const link = farLink(lane, roundTripMs, () => asked.push(performance.now()));
    await client.runRound(info, split.parseDown(structuredClone(lane.first)), link, signal);
    asked.slice(1).forEach((at, i) => {
      seconds.push((at - (asked[i] as number)) / 1000);
    });
    const results = [(await lane.finish()) as LaneResult];
    await lane.close();
    global = await foldRound(task, global, { results, servers: new Map() });
  }
  const scorer = await loadScorer(engine, modelSpec(task, model));
  const { accuracy = Number.NaN } = await scorer.run(global.parameters, test ?? [], signal);
  for (const end of [client, server, scorer, deviceEngine, engine]) await end.close();
  return { stepSeconds: summarise(seconds).median, accuracy: 100 * accuracy };
}

function tokenised(
  task: Task,
  { tokenizer }: ModelAndTokenizer,
  rows: Ground["speeches"]["train"],
): Example[] {
  const sequence = task.training.sequenceLength;
  return examplesOf(rows, { tokenizer, labels: DEMO_LABELS, sequence });
}

/** A link whose messages take half of a round trip each way. */
function farLink(
  lane: Lane<Payload, Payload>,
  roundTripMs: number,
  onAsk: () => void,
): RoundLink<Payload, Payload> {
  const near = loopbackLink({ protocol: split, lane, signal: new AbortController().signal });
  const travel = () => sleep(roundTripMs / 2);
  return {
    send: async (up) => {
      await travel();
      await near.send(up);
      await travel();
    },
    ask: async (up) => {
      onAsk();
      await travel();
      const answer = await near.ask(up);
      await travel();
      return answer;
    },
  };
}
