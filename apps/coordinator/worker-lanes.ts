// The coordinator end of `split` spread over worker processes: each device's lanes run in one of them, so that several
// processors compute at once. Journal, inbox and order stay with the coordinator.
import { setTimeout as delay } from "node:timers/promises";
import {
  type AnyProtocol,
  builtInProtocols,
  type GlobalModel,
  type Lane,
  type LaneResult,
  type Payload,
  type ServerContext,
  type ServerSide,
} from "../../protocols/index.ts";
import { type SplitWorker, startWorker } from "./split-worker.ts";

/** How lanes are spread. */
export interface WorkerLanesOptions {
  /** Processes; none of them runs before its first lane. */
  readonly workers: number;
  /** Threads of one operator in each. */
  readonly threads: number;
  /** Where they keep rows. */
  readonly runFolder: string;
}

/** The protocols as they are, but for `split`: the lanes of its per-device tails run in worker processes. */
export function withSplitWorkers(
  protocols: readonly AnyProtocol[],
  options: WorkerLanesOptions,
): readonly AnyProtocol[] {
  return protocols.map((protocol) => {
    if (protocol.name !== "split" || !builtInProtocols.includes(protocol)) return protocol;
    return {
      ...protocol,
      createServer: async (context: ServerContext) => {
        if (context.task.split.tails !== "shared") return createWorkerLanes(context, options);
        context.log("split.tails is shared: devices move one tail in turn, in this process");
        return await protocol.createServer(context);
      },
    };
  });
}

/** Lanes in worker processes. */
function createWorkerLanes(
  context: ServerContext,
  options: WorkerLanesOptions,
): ServerSide<Payload, Payload> {
  const places = Array.from({ length: options.workers }, (_, index) =>
    createPlace(context, options, index),
  );
  const placeOf = new Map<string, Place>();
  let lanes = 0;
  return {
    openLane: async (assignment, info, global) => {
      const { deviceId } = assignment;
      // A device stays where it is; a new one goes where the fewest are.
      const place = placeOf.get(deviceId) ?? emptiest(places);
      if (!placeOf.has(deviceId)) place.devices += 1;
      placeOf.set(deviceId, place);
      lanes += 1;
      const lane = lanes;
      for (let tries = 1; ; tries += 1) {
        const worker = await place.worker();
        try {
          const ask = { assignment, info, ...place.news(worker, global) };
          const opened = await worker.call("open", lane, ask);
          return workerLane({ place, worker, lane }, opened);
        } catch (error) {
          // A process that ended meanwhile is not the device's fault; one that ends again and again may be this lane's.
          if (worker.isAlive || tries === openingTries) throw error;
        }
      }
    },
    close: async () => {
      for (const place of places) await place.close();
    },
  };
}

/** Processes that may end while they open a lane. */
const openingTries = 3;

/** Where one worker process after the other stands. */
interface Place {
  devices: number;
  /** The process, started anew when the last one ended. */
  worker(): Promise<SplitWorker>;
  /** The global model, if the process does not hold it. */
  news(worker: SplitWorker, global: GlobalModel): { readonly global?: GlobalModel };
  /** A lane has delivered. */
  thrives(): void;
  close(): Promise<void>;
}

/** Wait before a process is started again, doubled with each one that ended before a lane delivered. */
const restart = { firstMs: 100, mostMs: 30_000 };

function createPlace(
  { task, model, log }: ServerContext,
  { threads, runFolder }: WorkerLanesOptions,
  index: number,
): Place {
  const name = `split worker ${index + 1}`;
  let running: SplitWorker | undefined;
  let starting: Promise<SplitWorker> | undefined;
  let deaths = 0;
  let held: { readonly worker: SplitWorker; readonly global: GlobalModel } | undefined;
  const start = async (): Promise<SplitWorker> => {
    if (running) {
      await delay(Math.min(restart.mostMs, restart.firstMs * 2 ** deaths));
      deaths += 1;
    }
    running = startWorker({ name, task, model, threads, runFolder, log });
    log(`${name} is process ${running.pid}`);
    return running;
  };
  return {
    devices: 0,
    worker: () => {
      if (running?.isAlive) return Promise.resolve(running);
      starting ??= start().finally(() => {
        starting = undefined;
      });
      return starting;
    },
    news: (worker, global) => {
      if (held?.worker === worker && held.global === global) return {};
      held = { worker, global };
      return { global };
    },
    thrives: () => {
      deaths = 0;
    },
    close: async () => {
      await starting?.catch(() => {});
      await running?.close();
    },
  };
}

/** A lane that runs elsewhere. What it has delivered outlives the process. */
function workerLane(
  {
    place,
    worker,
    lane,
  }: { readonly place: Place; readonly worker: SplitWorker; readonly lane: number },
  { first, resumable }: Pick<Lane<Payload, Payload>, "first" | "resumable">,
): Lane<Payload, Payload> {
  let result: LaneResult | undefined;
  let isClosed = false;
  return {
    first,
    resumable,
    isLost: () => !worker.isAlive,
    receive: (up) => worker.call("receive", lane, up),
    finish: async () => {
      if (result || isClosed || !worker.isAlive) return result;
      // A process that ends meanwhile takes nothing along that was delivered: that was asked for at once.
      result = await worker.call("finish", lane, undefined).catch(() => undefined);
      if (result) place.thrives();
      return result;
    },
    close: async () => {
      if (isClosed) return;
      isClosed = true;
      await worker.call("close", lane, undefined).catch(() => {});
    },
  };
}

function emptiest(places: readonly Place[]): Place {
  return places.reduce((best, place) => (place.devices < best.devices ? place : best));
}
