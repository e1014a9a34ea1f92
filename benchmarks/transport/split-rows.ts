// Study `split-workers`: what the coordinator computes for devices of `split`, in one worker process and in two. The devices' messages
// are recorded once and played back, so that nothing but the lanes takes the processors.
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { withShape } from "../../apps/bench/shape.ts";
import { summarise } from "../../apps/bench/statistics.ts";
import { defaultCacheFolder } from "../../apps/cache-folder.ts";
import { type PreparedTask, prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { type WorkerLanesOptions, withSplitWorkers } from "../../apps/coordinator/worker-lanes.ts";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { systemClock } from "../../broker/index.ts";
import {
  type AnyProtocol,
  type Assignment,
  builtInProtocols,
  initialOf,
  loopbackLink,
  type Payload,
  rowsInMemory,
  type ServerContext,
} from "../../protocols/index.ts";
import { type Engine, ortEngine } from "../../runtime/index.ts";
import type { Row } from "../row.ts";
import { commandOf, type StudyOptions } from "./study.ts";

const deviceIds = ["a", "b", "c", "d"];
const localSteps = 4;
const rounds = 4;
const { signal } = new AbortController();
const split = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;

/** Steps of four devices at once, GPT-2 124M shapes, cut behind the first of twelve blocks, one thread a process. */
export async function splitWorkerRows({ log }: StudyOptions): Promise<readonly Row[]> {
  const shape = { cacheFolder: defaultCacheFolder(), keep: false, signal, log };
  return await withShape("gpt2-small", shape, async ({ model, cacheFolder }) => {
    const folder = await mkdtemp(join(tmpdir(), "trifold-split-"));
    try {
      const prepared = await prepare(folder, { model, cacheFolder });
      const ups = await recorded(prepared);
      const rows: Row[] = [];
      for (const workers of [1, 2]) {
        const name = workers === 1 ? "1 worker" : `${workers} workers`;
        const rates = await playedBack(prepared, ups, { workers, runFolder: folder });
        log(`${name}: ${rates.map((rate) => rate.toFixed(2)).join(", ")} steps/s`);
        const { median: value, spread } = summarise(rates);
        const figure = `split lanes of 4 devices, GPT-2 124M shapes, cut 1, one thread a worker: ${name}`;
        rows.push({ figure, value, unit: "steps/s", spread, command: commandOf("split-workers") });
      }
      return rows;
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

async function prepare(
  folder: string,
  { model, cacheFolder }: { readonly model: string; readonly cacheFolder: string },
): Promise<PreparedTask> {
  // Any tokenizer of fewer tokens than the model's vocabulary serves.
  const tokenizer = "tokenizer.json";
  await copyFile(join(embeddedModelFolder(), tokenizer), join(model, tokenizer));
  const rows = Array.from({ length: 16 }, (_, i) => `${`the sea ${i} `.repeat(24)},sea`);
  await writeFile(join(folder, "test.csv"), `text,label\n${rows.join("\n")}\n`);
  const task = join(folder, "task.yaml");
  const settings = {
    name: "split-workers",
    model,
    head: { kind: "classification", labels: ["land", "sea"] },
    data: { test: "test.csv" },
    adapter: { rank: 8, alpha: 16, targets: ["c_attn"] },
    training: { rounds: 1, localSteps, batchSize: 4, sequenceLength: 64 },
    selection: { order: ["split"] },
    labelsMayLeave: true,
  };
  await writeFile(task, stringify(settings));
  return await prepareTask(await readTaskFile(task), cacheFolder);
}

/** The messages of one device's round, from the device itself. */
async function recorded(prepared: PreparedTask): Promise<readonly Payload[]> {
  const { task, model, testSet: train } = prepared;
  const engine = ortEngine({ threads: 1 });
  const [deviceId = ""] = deviceIds;
  const assignment = assignmentOf(deviceId);
  const state = { read: async () => undefined, stage: async () => {} };
  const publicSet = async () => [];
  const log = () => {};
  const about = { task, deviceId, assignment, engine, model, train, holdOut: [] };
  const client = await split.createClient({
    ...about,
    publicSet,
    state,
    rows: rowsInMemory(),
    log,
  });
  const server = await split.createServer(contextOf(prepared, engine));
  const global = { round: 0, parameters: initialOf(task) };
  const lane = await server.openLane(assignment, infoOf(1), global);
  const ups: Payload[] = [];
  const observe = (direction: "up" | "down", payload: Payload) => {
    if (direction === "up") ups.push(structuredClone(payload));
  };
  const link = loopbackLink({ protocol: split, lane, signal, observe });
  const first = split.parseDown(structuredClone(lane.first));
  await client.runRound(infoOf(1), first, link, signal);
  await lane.close();
  await client.close();
  await server.close();
  await engine.close();
  return ups;
}

/** Steps a second of all devices together, for each round behind the first, in which the workers open their model. */
async function playedBack(
  prepared: PreparedTask,
  ups: readonly Payload[],
  place: Omit<WorkerLanesOptions, "threads">,
): Promise<readonly number[]> {
  const spread = withSplitWorkers(builtInProtocols, { ...place, threads: 1 });
  const engine = ortEngine({ threads: 1 });
  const protocol = spread.find(({ name }) => name === "split") as AnyProtocol;
  const server = await protocol.createServer(contextOf(prepared, engine));
  const global = { round: 0, parameters: initialOf(prepared.task) };
  const rates: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const started = performance.now();
    await Promise.all(
      deviceIds.map(async (deviceId) => {
        const lane = await server.openLane(assignmentOf(deviceId), infoOf(round + 1), global);
        for (const up of ups) await lane.receive(split.parseUp(structuredClone(up)), signal);
        await lane.finish();
        await lane.close();
      }),
    );
    const seconds = (performance.now() - started) / 1000;
    if (round > 0) rates.push((deviceIds.length * localSteps) / seconds);
  }
  await server.close();
  await engine.close();
  return rates;
}

function contextOf({ task, model }: PreparedTask, engine: Engine): ServerContext {
  const { after } = systemClock;
  return { task, model, engine, publicSet: [], rowsOf: rowsInMemory, after, log: () => {} };
}

function assignmentOf(deviceId: string): Assignment {
  const { name, version } = split;
  return { deviceId, protocol: name, protocolVersion: version, cutLayer: 1, reason: "measured" };
}

function infoOf(lane: number) {
  return { round: 1, attempt: 1, lane, globalStep: 0, acceptedLane: 0 };
}
