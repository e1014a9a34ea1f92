// What the studies of whole fleets share: a task of `full` with updates of 300 KB, a coordinator's process, simulated devices.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import { encodeAll, initialOf, type Payload, type Task } from "../../protocols/index.ts";
import { randomStream } from "../../runtime/index.ts";
import type { CoordinatorWord } from "./coordinator-process.ts";

/** A folder with a task, gone with `close`. */
export interface FleetGround {
  readonly folder: string;
  readonly task: string;
  close(): Promise<void>;
}

/** Adapters on every linear layer of the embedded model in rank 10: 325 kB in float32. */
const adapter = { rank: 10, alpha: 20, targets: ["c_attn", "c_proj", "c_fc"] };

/** Writes the task of so many devices. */
export async function openFleetGround(
  minimumDevices: number,
  rounds: number,
): Promise<FleetGround> {
  const folder = await mkdtemp(join(tmpdir(), "trifold-fleet-"));
  const rows = ["sea", "land"].map((label) => `the ${label} and the ${label},${label}`);
  await writeFile(join(folder, "test.csv"), `text,label\n${rows.join("\n")}\n`);
  const task = join(folder, "task.yaml");
  const settings = {
    name: "fleet",
    head: { kind: "classification", labels: ["land", "sea"] },
    data: { test: "test.csv" },
    adapter,
    training: { rounds, localSteps: 3, batchSize: 4, sequenceLength: 16 },
    cohort: { minimumDevices },
    selection: { order: ["full"] },
    full: { encoding: "float32" },
  };
  await writeFile(task, stringify(settings));
  return { folder, task, close: () => rm(folder, { recursive: true, force: true }) };
}

/** A running coordinator. */
export interface CoordinatorProcess {
  readonly process: ChildProcess;
  readonly url: string;
  /** Ids of the devices that it has assigned. */
  readonly ready: ReadonlySet<string>;
  /** Resolves when so many are. */
  allReady(count: number): Promise<void>;
  /** Rejects when it ends otherwise than by finishing. */
  readonly finished: Promise<void>;
  /** Resident bytes now and at their highest. */
  memory(): { readonly nowBytes: number; readonly peakBytes: number };
}

/** Starts it; `listen` is an address, or a broker's as `at URL`. */
export async function startCoordinatorProcess(
  { folder, task }: FleetGround,
  listen = "mqtt://127.0.0.1:0",
): Promise<CoordinatorProcess> {
  const file = fileURLToPath(new URL("./coordinator-process.js", import.meta.url));
  const child = fork(file, [task, join(folder, "run"), listen], { stdio: ["ignore", 2, 2, "ipc"] });
  const ready = new Set<string>();
  const watchers = new Set<() => void>();
  let isFinished = false;
  const listening = new Promise<string>((resolve, reject) => {
    child.on("message", (word: CoordinatorWord) => {
      if (word.kind === "listening") resolve(word.url);
      if (word.kind === "ready") ready.add(word.deviceId);
      if (word.kind === "finished") isFinished = true;
      for (const watch of watchers) watch();
    });
    child.once("exit", () => reject(new Error("the coordinator ended before it listened")));
  });
  const finished = once(child, "exit").then(() => {
    if (!isFinished) throw new Error("the coordinator ended before the task did");
  });
  finished.catch(() => {});
  return {
    process: child,
    url: await listening,
    ready,
    allReady: (count) =>
      new Promise((resolve, reject) => {
        const watch = () => ready.size >= count && resolve();
        watchers.add(watch);
        watch();
        finished.catch(reject);
      }),
    finished,
    memory: () => memoryOf(child.pid ?? 0),
  };
}

/** Resident bytes of a process, as Linux accounts them. */
export function memoryOf(pid: number): { readonly nowBytes: number; readonly peakBytes: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (field: string) =>
    1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? Number.NaN);
  return { nowBytes: bytes("VmRSS"), peakBytes: bytes("VmHWM") };
}

/** The same update for every task, in two sizes: that of even devices is twice that of odd ones, with the other sign. */
export function preparedUpdate(): (task: Task, index: number) => Payload {
  const made = new Map<number, Payload>();
  return (task, index) => {
    const scale = index % 2 === 0 ? 2 : -1;
    const known = made.get(scale) ?? updateOf(task, scale);
    made.set(scale, known);
    return known;
  };
}

function updateOf(task: Task, scale: number): Payload {
  const random = randomStream("fleet update", 1);
  const parameters = [...initialOf(task)].map(([name, { shape, data }]) => {
    const values = Float32Array.from(data, () => scale * 1e-3 * (random.next() - 0.5));
    return [name, { dtype: "float32", shape, data: values }] as const;
  });
  const tensors = encodeAll(new Map(parameters), "float32");
  return { kind: "update", fields: { examples: 16, steps: 3 }, tensors };
}
