// From a coordinator's command line to a running coordinator: task, broker, engine, run.
import { randomBytes } from "node:crypto";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import {
  announcePresence,
  type Broker,
  checkId,
  connectMqtt,
  coordinatorId,
  presenceWill,
  type StatusDetails,
  startBroker,
  type Transport,
  topicsOf,
} from "../../broker/index.ts";
import { type AnyProtocol, protocolErrors, type Task } from "../../protocols/index.ts";
import { type Engine, ortEngine, type Score } from "../../runtime/index.ts";
import {
  type ConnectionFlags,
  type ConnectionSecrets,
  type ListenerFlags,
  listenersOf,
  readSecrets,
  secretsOf,
} from "../connection.ts";
import { followRevocations } from "../keys/revocations.ts";
import { packageVersion } from "../package-root.ts";
import { withBuiltIns } from "../protocol-packages.ts";
import { checkBroker, visitorId } from "./broker-check.ts";
import { runCoordinator } from "./coordinator.ts";
import type { OnEvent } from "./events.ts";
import { type PreparedTask, prepareTask } from "./prepared-task.ts";
import { openRunFolder, type RunFolder } from "./run-folder.ts";
import { readTaskFile } from "./task-file.ts";

/** What the command line gives. */
export interface CoordinatorFlags extends ConnectionFlags, ListenerFlags {
  readonly task: string;
  readonly run: string;
  readonly federation: string;
  /** Address of another broker; without one the coordinator listens itself. */
  readonly broker?: string;
  /** Whether that broker is used without trying what strangers may do there. */
  readonly trustBroker?: boolean;
  /** File with the password of the device `visitor` there, which shows what devices may do. */
  readonly visitorPasswordFile?: string;
  readonly threads?: number;
  /** Processes that run the lanes of `split`; 0, the default, runs them in this one. */
  readonly splitWorkers?: number;
  /** Packages or files with protocols beside the built-in ones. */
  readonly protocol?: readonly string[];
}

/** The flags, and what the program around them provides. */
export interface CoordinatorStart extends CoordinatorFlags {
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly onEvent: OnEvent;
  /** Told where devices can connect, once they can. */
  readonly onListening?: (url: string) => void;
  readonly log: (message: string) => void;
}

/** What a finished run says. */
export type CoordinatorResult = Score & {
  readonly runFolder: string;
  readonly rounds: number;
};

/** Runs the task to its end. Wrong input is refused before anything listens. */
export async function startCoordinator(start: CoordinatorStart): Promise<CoordinatorResult> {
  const { threads, signal, log } = start;
  checkId("federation", start.federation);
  const prepared = await prepareTask(await readTaskFile(start.task), start.cacheFolder);
  const protocols = await withBuiltIns({ names: start.protocol ?? [], folder: "." });
  checkOrder(prepared.task, protocols);
  const listeners = start.broker === undefined ? await listenersOf(start) : undefined;
  // At its own broker it has nothing to prove.
  const secrets =
    listeners === undefined ? await readSecrets({ ...start, holder: coordinatorId }) : {};
  // Owned before anything listens or connects: at another broker a second coordinator would take over the first one's id.
  const folder = await openRunFolder(resolve(start.run), prepared.task);
  const engine = ortEngine(threads === undefined ? { signal } : { threads, signal });
  let broker: Broker | undefined;
  let unfollow = () => {};
  try {
    broker = listeners ? await startBroker({ ...listeners, log }) : undefined;
    if (broker) unfollow = await followRevocations({ broker, keys: start.keys, log });
    const url = start.broker ?? (broker as Broker).url;
    start.onListening?.(url);
    const addresses = broker?.listeners.map((listener) => listener.url) ?? [url];
    log(
      `task "${prepared.task.name}" at ${addresses.join(", ")}, federation "${start.federation}"`,
    );
    return await runAt({ start, url, broker, secrets, prepared, protocols, folder, engine });
  } finally {
    unfollow();
    await engine.close();
    await broker?.close();
    await folder.close();
  }
}

/** A protocol that the task counts on and this coordinator does not have would never be used, and nobody told. */
function checkOrder({ selection }: Task, protocols: readonly AnyProtocol[]): void {
  const names = protocols.map(({ name }) => name);
  const unknown = selection.order.find((name) => !names.includes(name));
  if (unknown === undefined) return;
  throw protocolErrors.error(
    "PROTOCOL_UNKNOWN",
    `the task's selection.order names "${unknown}"; this coordinator has ${names.join(", ")}`,
    { hint: "Give --protocol a package or a file that has it." },
  );
}

/** The workers share the processors unless told how many threads each one gets. */
function splitWorkersOf({ splitWorkers: workers = 0, threads }: CoordinatorStart) {
  if (workers === 0) return {};
  const share = Math.max(1, Math.floor(availableParallelism() / workers));
  return { splitWorkers: { workers, threads: threads ?? share } };
}

interface Place {
  readonly start: CoordinatorStart;
  readonly url: string;
  readonly broker: Broker | undefined;
  readonly secrets: ConnectionSecrets;
  readonly prepared: PreparedTask;
  readonly protocols: readonly AnyProtocol[];
  readonly folder: RunFolder;
  readonly engine: Engine;
}

async function runAt(place: Place): Promise<CoordinatorResult> {
  const { start, url, broker, secrets, prepared, protocols, folder, engine } = place;
  const { federation, signal, onEvent, log } = start;
  const identity = {
    topic: topicsOf(federation).coordinatorStatus,
    instance: randomBytes(8).toString("hex"),
    // Rises from start to start without state of its own.
    counter: Math.floor(Date.now() / 1000),
    version: packageVersion(),
  };
  const username = secrets.username ?? (secrets.password === undefined ? undefined : coordinatorId);
  const name = username === undefined ? {} : { username };
  const will = presenceWill(identity);
  const transport = await connectMqtt({
    url,
    ...(broker === undefined ? {} : { open: broker.openInside }),
    clientId: coordinatorId,
    ...secrets,
    ...name,
    will,
    signal,
    log,
  });
  const stop = new AbortController();
  const ending = AbortSignal.any([signal, stop.signal, folder.failed]);
  transport.onClosed((reason) => reason && stop.abort(reason));
  try {
    if (broker === undefined && start.trustBroker !== true) {
      await checkOther(place, transport);
    }
    return await runPresent(transport, ending, (reason) => stop.abort(reason));
  } finally {
    await transport.close();
  }

  async function runPresent(
    connected: Transport,
    until: AbortSignal,
    onReplaced: (reason: Error) => void,
  ) {
    const details = { task: prepared.task.name };
    const own = { transport: connected, identity, details, onReplaced, log };
    const presence = await announcePresence(own);
    // A device that missed the end reads it here.
    let last: StatusDetails = {};
    try {
      const options = {
        prepared,
        folder,
        federation,
        presence,
        engine,
        protocols,
        ...splitWorkersOf(start),
        onEvent,
        log,
      };
      const { global, score } = await runCoordinator({
        ...options,
        transport: connected,
        signal: until,
      });
      last = { ...details, finished: true };
      return { runFolder: folder.path, rounds: global.round, ...score };
    } finally {
      await presence.close(last);
    }
  }
}

/** Refuses a broker where others may command devices, as far as that can be tried with what the flags give. */
async function checkOther({ start, url, secrets }: Place, transport: Transport): Promise<void> {
  const { federation, keys, visitorPasswordFile: passwordFile, log } = start;
  const visitor = await secretsOf(visitorId, {
    ...(keys === undefined ? {} : { keys }),
    ...(passwordFile === undefined ? {} : { passwordFile }),
  });
  await checkBroker({
    url,
    federation,
    transport,
    ...(secrets.ca === undefined ? {} : { ca: secrets.ca }),
    ...(visitor === undefined ? {} : { visitor }),
    log,
  });
}
