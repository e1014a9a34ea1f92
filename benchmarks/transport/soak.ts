// Small federations, one after another, under seeded faults: what they lose, and whether their numbers stay those of a run that
// nothing disturbed.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type RandomStream, randomStream } from "../../runtime/index.ts";
import { startBrokerProcess } from "../../tests/apps/broker-process.ts";
import { watchedDisk } from "../../tests/apps/disk-plan.ts";
import { type FaultProxy, startFaultProxy } from "../../tests/apps/fault-proxy.ts";
import { coordinatorOf, deviceOf, freePort, recordsOf } from "../../tests/apps/killed-run.ts";
import type { Running } from "../../tests/apps/program.ts";
import {
  adapterOf,
  type Framework,
  federate,
  makeWorld,
  remembering,
  type SmallDevice,
  type SmallWorld,
  writeTask,
} from "../../tests/apps/small-federation.ts";

/** What a soak is made of. */
export interface SoakOptions {
  /** No federation begins after that. */
  readonly minutes: number;
  readonly seed: number;
  readonly log: (line: string) => void;
}

/** What a soak came to. */
export interface SoakResult {
  readonly faults: number;
  readonly byKind: Readonly<Record<string, number>>;
  readonly roundsClosed: number;
  /** Rounds that were to be closed and were not, or twice. */
  readonly roundsLost: number;
  /** Federations whose adapter is not that of the undisturbed run, bit for bit. */
  readonly wrongNumbers: number;
}

const frameworks = ["full", "kd", "split"] as const;
const rounds = 3;

const kinds = [
  "kill coordinator",
  "kill device",
  "kill broker",
  "partition",
  "duplicate",
  "reorder",
  "corrupt",
  "full disk",
] as const;

/** Runs federations of every framework in turn until the time is up. */
export async function soak({ minutes, seed, log }: SoakOptions): Promise<SoakResult> {
  const root = await mkdtemp(join(tmpdir(), "trifold-soak-"));
  const byKind: Record<string, number> = {};
  const result = { roundsClosed: 0, roundsLost: 0, wrongNumbers: 0 };
  const random = randomStream("soak", seed);
  const endMs = performance.now() + minutes * 60_000;
  try {
    const world = await makeWorld(root);
    const cohort = { minimumDevices: 2 };
    const task = await writeTask(world, "soak", {
      cohort,
      training: { rounds },
      split: remembering,
    });
    const expected = new Map<Framework, Buffer>();
    for (let episode = 0; performance.now() < endMs; episode += 1) {
      const framework = frameworks[episode % frameworks.length] ?? "full";
      const devices: readonly SmallDevice[] = [{ id: "a", framework }, { id: "b" }];
      const calm = join(root, `calm-${framework}`);
      const known = expected.get(framework);
      const wanted = known ?? (await federate(world, { task, run: calm, devices })).adapter;
      expected.set(framework, wanted);
      const folder = join(root, `run-${episode}`);
      const count = (kind: string) => {
        byKind[kind] = (byKind[kind] ?? 0) + 1;
      };
      const storm = new Storm({ world, task, folder, devices, random, count });
      const ended = await storm.run(wanted, log);
      result.roundsClosed += ended.closed;
      result.roundsLost += ended.lost;
      result.wrongNumbers += ended.isWrong ? 1 : 0;
      log(`${framework}: ${ended.closed} rounds closed, ${sum(byKind)} faults so far`);
      for (const suffix of ["", "-devices"])
        await rm(`${folder}${suffix}`, { recursive: true, force: true });
    }
    return { faults: sum(byKind), byKind, ...result };
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

interface StormOptions {
  readonly world: SmallWorld;
  readonly task: string;
  readonly folder: string;
  readonly devices: readonly SmallDevice[];
  readonly random: RandomStream;
  readonly count: (kind: string) => void;
}

/** One federation, and what befalls it. */
class Storm {
  readonly #options: StormOptions;
  readonly #ends: (() => unknown)[] = [];
  readonly #running = new Map<string, Running>();
  #isOver = false;

  constructor(options: StormOptions) {
    this.#options = options;
  }

  /** Runs it to its end; a run that stands still for ten minutes has lost its rounds. */
  async run(wanted: Buffer, log: (line: string) => void) {
    const { folder, devices, random } = this.#options;
    const port = await freePort();
    const proxy = await startFaultProxy(port);
    let broker = await startBrokerProcess(this, port);
    const flag = `${folder}.full`;
    const start = (name: string) => this.#start(name, { proxy, flag });
    const programs = ["coordinator", ...devices.map(({ id }) => id)].map(start);
    const storm = async (): Promise<void> => {
      while (!this.#isOver) {
        await delay(1000 + random.below(3500));
        if (this.#isOver) return;
        const kind = kinds[random.below(kinds.length)] ?? "partition";
        await this.#befall(kind, {
          proxy,
          flag,
          restart: async () => {
            await broker.kill();
            await delay(random.below(500));
            broker = await startBrokerProcess(this, port);
          },
        });
      }
    };
    const storming = storm();
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<"late">((resolve) => {
      timer = setTimeout(() => resolve("late"), 600_000);
    });
    // A device that was killed while the coordinator told the end waits for the next task: its round is over all the same.
    const ended = await Promise.race([programs[0]?.then(() => "ended" as const), patience]);
    clearTimeout(timer);
    this.#isOver = true;
    if (ended === "late") log(`stood still: ${folder}`);
    for (const end of this.#ends) end();
    await Promise.all([storming, ...programs]);
    await proxy.close();
    const closed = (await recordsOf(folder)).filter(({ kind }) => kind === "closed").length;
    const adapter = await adapterOf(folder).catch(() => Buffer.alloc(0));
    return { closed, lost: Math.abs(rounds - closed), isWrong: !adapter.equals(wanted) };
  }

  /** For what is started: ended with the storm, at once when that is over. */
  teardown(end: () => unknown): void {
    if (this.#isOver) end();
    else this.#ends.push(end);
  }

  /** Runs a program, again and again until it ends by itself. */
  async #start(name: string, place: { readonly proxy: FaultProxy; readonly flag: string }) {
    const { devices } = this.#options;
    const { proxy, flag } = place;
    const { folder } = this.#options;
    while (!this.#isOver) {
      const device = devices.find(({ id }) => id === name);
      const until = `${flag}.${name}`;
      const own = device ? join(`${folder}-devices`, `${name}-state`, "tasks") : folder;
      const watched = watchedDisk({ folder: own, refuse: { from: 1, until } });
      const running = device
        ? await deviceOf(this, this.#options, device, proxy.url, watched)
        : coordinatorOf(this, this.#options, ["--broker", proxy.url], watched);
      this.#running.set(name, running);
      const { status } = await running.finished;
      if (status === 0) return;
      // As a service manager would.
      await delay(200);
    }
  }

  async #befall(
    kind: (typeof kinds)[number],
    {
      proxy,
      flag,
      restart,
    }: {
      readonly proxy: FaultProxy;
      readonly flag: string;
      readonly restart: () => Promise<void>;
    },
  ): Promise<void> {
    const { random, devices, count } = this.#options;
    const device = devices[random.below(devices.length)]?.id ?? "";
    switch (kind) {
      case "kill coordinator":
      case "kill device": {
        const victim = this.#running.get(kind === "kill device" ? device : "coordinator");
        if (victim?.process.kill("SIGKILL")) count(kind);
        return;
      }
      case "kill broker":
        await restart();
        count(kind);
        return;
      case "partition":
        proxy.cut();
        await delay(100 + random.below(2000));
        proxy.restore();
        count(kind);
        return;
      case "full disk": {
        const until = `${flag}.${random.below(2) === 0 ? "coordinator" : device}`;
        await writeFile(until, "");
        await delay(100 + random.below(1500));
        await rm(until);
        count(kind);
        return;
      }
      default:
        proxy.harm(kind, () => count(kind));
    }
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function sum(byKind: Readonly<Record<string, number>>): number {
  return Object.values(byKind).reduce((total, count) => total + count, 0);
}
