// From a coordinator's command line to a running coordinator: task, broker, engine, run.
import { randomBytes } from "node:crypto";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import {
  announcePresence,
  type Broker,
  type BrokerOptions,
  checkId,
  connectMqtt,
  coordinatorId,
  presenceWill,
  startBroker,
  type Transport,
  topicsOf,
} from "../../broker/index.ts";
import { type AnyProtocol, protocolErrors, type Task } from "../../protocols/index.ts";
import { type Engine, ortEngine, type Score } from "../../runtime/index.ts";
import { type ConnectionFlags, listenerOf, readSecrets } from "../connection.ts";
import { appErrors } from "../errors.ts";
import { packageVersion } from "../package-root.ts";
import { withBuiltIns } from "../protocol-packages.ts";
import { runCoordinator } from "./coordinator.ts";
import type { OnEvent } from "./events.ts";
import { type PreparedTask, prepareTask } from "./prepared-task.ts";
import { openRunFolder, type RunFolder } from "./run-folder.ts";
import { readTaskFile } from "./task-file.ts";

/** What the command line gives. */
export interface CoordinatorFlags extends ConnectionFlags {
  readonly task: string;
  readonly run: string;
  readonly federation: string;
  readonly listen?: string;
  readonly broker?: string;
  readonly credentials?: string;
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
  const listener = start.broker === undefined ? await listenerFor(start) : undefined;
  const secrets = await secretsFor(start, listener);
  // Owned before anything listens or connects: at another broker a second coordinator would take over the first one's id.
  const folder = await openRunFolder(resolve(start.run), prepared.task);
  const engine = ortEngine(threads === undefined ? { signal } : { threads, signal });
  let broker: Broker | undefined;
  try {
    broker = listener ? await startBroker({ ...listener, log }) : undefined;
    const url = start.broker ?? (broker as Broker).url;
    start.onListening?.(url);
    log(`task "${prepared.task.name}" at ${url}, federation "${start.federation}"`);
    return await runAt({ start, url, secrets, prepared, protocols, folder, engine });
  } finally {
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

/** The embedded broker: without TLS, which takes a broker of its own (`trifold broker`). */
async function listenerFor(start: CoordinatorStart): Promise<Omit<BrokerOptions, "log">> {
  const { listen: url = "mqtt://127.0.0.1:1883", credentials } = start;
  if (!url.startsWith("mqtt://")) {
    throw appErrors.error(
      "OPTION_INVALID",
      `--listen ${url}: the coordinator's own broker speaks mqtt:// only`,
      {
        hint: "For TLS run `trifold broker --listen mqtts://...` beside it and give the coordinator --broker and --ca.",
      },
    );
  }
  return listenerOf({ listen: url, ...(credentials === undefined ? {} : { credentials }) });
}

/** At its own broker the coordinator is one of the users in the credentials file. */
async function secretsFor(
  start: CoordinatorStart,
  listener: Omit<BrokerOptions, "log"> | undefined,
) {
  const secrets = await readSecrets(start);
  const password =
    secrets.password ?? listener?.credentials?.get(secrets.username ?? coordinatorId);
  return { ...secrets, ...(password === undefined ? {} : { password }) };
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
  readonly secrets: Awaited<ReturnType<typeof readSecrets>>;
  readonly prepared: PreparedTask;
  readonly protocols: readonly AnyProtocol[];
  readonly folder: RunFolder;
  readonly engine: Engine;
}

async function runAt(place: Place): Promise<CoordinatorResult> {
  const { start, url, secrets, prepared, protocols, folder, engine } = place;
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
    const presence = await announcePresence({
      transport: connected,
      identity,
      details,
      onReplaced,
      log,
    });
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
      return { runFolder: folder.path, rounds: global.round, ...score };
    } finally {
      await presence.close();
    }
  }
}
