// What a connected device does with the coordinator's requests.
import { join } from "node:path";
import {
  coordinatorId,
  createLink,
  deviceLinkTopics,
  type Envelope,
  type LanePlace,
  type Link,
  openPieceFiles,
  type QueueSize,
  type Reply,
  type Transport,
} from "../../broker/index.ts";
import type { BoardState, DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import {
  type AnyProtocol,
  findProtocol,
  parseTask,
  type Task,
  taskFingerprint,
} from "../../protocols/index.ts";
import type { Engine, Example, Tokenizer } from "../../runtime/index.ts";
import {
  closeSchema,
  prepareSchema,
  provideSchema,
  readFields,
  refusedSchema,
  startSchema,
} from "../control-messages.ts";
import { deviceProgramErrors } from "./errors.ts";
import { createFetchMeter, type FetchMeter } from "./fetch-meter.ts";
import type { ModelPlaces } from "./model-store.ts";
import { createProvisioner, type Provisioner } from "./provisioning.ts";
import { loadPublicSet } from "./public-set.ts";
import { createRoundWorker, type RoundWorker } from "./round-worker.ts";
import { heldFor, openWorkplace, type PrivateData, type Workplace } from "./workplace.ts";

/** What a device is and has. */
export interface StationOptions {
  readonly deviceId: string;
  readonly federation: string;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  /** Reads memory and heat after a round; absent where the profile is declared. */
  readonly readState?: () => Promise<BoardState>;
  /** What its owner counts it among. */
  readonly group?: string;
  readonly data: PrivateData;
  readonly places: ModelPlaces;
  readonly engine: Engine;
  readonly protocols: readonly AnyProtocol[];
  readonly transport: Transport;
  /** The coordinator says that the task is finished. */
  readonly onFinished: () => void;
  /** The device's own model or data cannot serve the task, and the coordinator knows. */
  readonly onUnfit: (reason: unknown) => void;
  /** What the device does now: a protocol's name, or "idle". */
  readonly onActivity: (activity: string) => void;
  readonly log: (message: string) => void;
}

/** A device that answers its coordinator. */
export interface Station {
  /** Requests to the coordinator without an answer yet. */
  queue(): QueueSize;
  /** Name of the task that it is prepared for. */
  task(): string | undefined;
  close(): Promise<void>;
}

/** Joins the link with the coordinator; the device must announce its presence after this. */
export async function openStation(options: StationOptions): Promise<Station> {
  const { transport, federation, deviceId, log } = options;
  const desk = new Desk(options);
  desk.link = await createLink({
    transport,
    federation,
    self: deviceId,
    peer: coordinatorId,
    ...deviceLinkTopics(federation, deviceId),
    pieces: openPieceFiles({ folder: join(options.places.stateFolder, "incoming", deviceId), log }),
    onRequest: (request, signal) => desk.answer(request, signal),
    log,
  });
  const { link } = desk;
  return { queue: () => link.queue(), task: () => desk.task, close: () => desk.close() };
}

class Desk {
  link: Link | undefined;
  #provisioner: Provisioner | undefined;
  readonly #options: StationOptions;
  #workplace: Workplace | undefined;
  #worker: RoundWorker | undefined;
  /** Why this device could not prepare for the task. */
  #fault: unknown;
  readonly #fetched: FetchMeter;

  constructor(options: StationOptions) {
    this.#options = options;
    this.#fetched = createFetchMeter(options.transport);
  }

  get task(): string | undefined {
    return this.#workplace?.task.name;
  }

  get provisioner(): Provisioner {
    const { deviceId, places, log } = this.#options;
    this.#provisioner ??= createProvisioner({
      deviceId,
      link: this.link as Link,
      stateFolder: places.stateFolder,
      log,
    });
    return this.#provisioner;
  }

  async answer(request: Envelope, signal: AbortSignal): Promise<Reply> {
    switch (request.kind) {
      case "describe":
        return { kind: "description", fields: this.#description() };
      case "prepare":
        return { kind: "ready", fields: await this.#prepare(request, signal) };
      case "provide":
        await this.#provide(request, signal);
        return { kind: "provided" };
      case "refused":
        this.#takeRefusal(request);
        return { kind: "refused" };
      case "start":
        await this.#start(request);
        return { kind: "started" };
      case "close":
        await this.#workplace?.state.settle(readFields(request, closeSchema).acceptedLane);
        return { kind: "closed" };
      case "finish":
        // After the reply is on its way.
        setImmediate(this.#options.onFinished);
        return { kind: "finished" };
      default:
        throw deviceProgramErrors.error(
          "DEVICE_REQUEST_UNKNOWN",
          `a device does not know "${request.kind}"`,
          {
            hint: "Install the same version of Trifold on the coordinator and on the device.",
          },
        );
    }
  }

  async close(): Promise<void> {
    await this.#worker?.close();
    await this.link?.close();
  }

  #description(): Readonly<Record<string, unknown>> {
    const { profile, budget, group, protocols } = this.#options;
    const versions = Object.fromEntries(protocols.map(({ name, version }) => [name, version]));
    return { profile, budget, protocols: versions, ...(group === undefined ? {} : { group }) };
  }

  async #prepare(
    request: Envelope,
    signal: AbortSignal,
  ): Promise<Readonly<Record<string, unknown>>> {
    const { deviceId, places, data, log } = this.#options;
    this.#fault = undefined;
    const task = parseTask(readFields(request, prepareSchema).task);
    const fingerprint = taskFingerprint(task);
    this.link?.limitPackets(task.transport.maxPacketBytes);
    if (this.#workplace?.fingerprint !== fingerprint) {
      log(`task "${task.name}": opening model and data`);
      const { provisioner } = this;
      const options = { deviceId, places, data, provisioner, log, signal };
      const workplace = await this.#fetching(() => openWorkplace(task, options));
      await this.#worker?.close();
      this.#workplace = workplace;
      this.#worker = this.#createWorker(workplace);
    }
    const { examples, base, own, fetchesModel } = this.#workplace as Workplace;
    this.#worker?.markTraffic();
    const delivers = await this.#deliverKept();
    return {
      examples: examples.train,
      holdOut: examples.holdOut,
      fingerprint,
      hasModel: base !== undefined && !fetchesModel,
      ...(fetchesModel ? { fetchesModel } : {}),
      ...(own ? { ownModel: own.facts } : {}),
      ...(delivers ? { delivers } : {}),
    };
  }

  /** Begins to deliver what a former process finished, and gives its lane. */
  async #deliverKept(): Promise<LanePlace | undefined> {
    const kept = await this.#workplace?.uploads.read();
    // After the reply: the coordinator keeps the lane once it knows.
    if (kept) setImmediate(() => this.#worker?.deliver(kept));
    return kept?.place;
  }

  /** Fetches what an assignment needs of the model before the first round does. */
  async #provide(request: Envelope, signal: AbortSignal): Promise<void> {
    const workplace = this.#workplace;
    if (!workplace) throw taskMissing("a model was to be fetched");
    const { protocol: name, protocolVersion, ...way } = readFields(request, provideSchema);
    const { deviceId, protocols } = this.#options;
    const protocol = findProtocol(protocols, name, protocolVersion);
    const assignment = { deviceId, protocol: name, protocolVersion, reason: "", ...way };
    const { task, modelWith } = heldFor(workplace, protocol);
    await this.#fetching(() => modelWith(protocol.tensors?.(task, assignment), signal));
    this.#worker?.markTraffic();
  }

  /** Counts what comes meanwhile as provisioning; a failure is this device's own fault. */
  async #fetching<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.#fetched.count(work);
    } catch (fault) {
      this.#fault = fault;
      throw fault;
    }
  }

  /** A fault of this device's own ends the program; anything else may be mended at the coordinator. */
  #takeRefusal(request: Envelope): void {
    const { code, message, hint } = readFields(request, refusedSchema);
    const { log, onUnfit } = this.#options;
    if (this.#fault !== undefined) {
      const fault = this.#fault;
      setImmediate(() => onUnfit(fault));
      return;
    }
    log(`the coordinator cannot use this device: ${code}: ${message}`);
    if (hint !== undefined) log(`hint: ${hint}`);
  }

  async #start(request: Envelope): Promise<void> {
    const { deviceId, log } = this.#options;
    const { payload, globalStep, acceptedLane, isReassigned, dropped, ...chosen } = readFields(
      request,
      startSchema,
    );
    if (!this.#workplace || !this.#worker) {
      throw taskMissing("a round was started");
    }
    await this.#workplace.state.settle(acceptedLane);
    if (dropped)
      log(
        `the last update is not counted: ${dropped.staleness} rounds were folded while it was made`,
      );
    const { round, attempt, lane, tensors, blobs } = request;
    const assignment = { deviceId, ...chosen };
    const isNew = this.#worker.start({
      assignment,
      isReassigned,
      info: { round, attempt, lane, globalStep, acceptedLane },
      first: { ...payload, tensors, blobs },
    });
    log(isNew ? `round ${round}: ${assignment.reason}` : `round ${round}: going on`);
  }

  #createWorker(workplace: Workplace): RoundWorker {
    const { transport, deviceId, engine, protocols, readState, onActivity, log } = this.#options;
    const link = this.link as Link;
    const publicSets = new Map<Tokenizer, Promise<readonly Example[]>>();
    return createRoundWorker({
      deviceId,
      link,
      transport,
      engine,
      protocols,
      workplace,
      ...(readState ? { readState } : {}),
      takeFetchedBytes: () => this.#fetched.take(),
      publicSet: (tokenizer) => {
        const known = publicSets.get(tokenizer);
        const publicSet = known ?? this.#fetchPublicSet(link, workplace.task, tokenizer);
        publicSets.set(tokenizer, publicSet);
        return publicSet;
      },
      onActivity,
      log,
    });
  }

  #fetchPublicSet(link: Link, task: Task, tokenizer: Tokenizer): Promise<readonly Example[]> {
    const { stateFolder } = this.#options.places;
    const fetch = async () => {
      const reply = await link.request({ kind: "public-set" });
      return reply.blobs.get("texts") ?? new Uint8Array(0);
    };
    return loadPublicSet({ task, tokenizer, stateFolder, fetch });
  }
}

function taskMissing(what: string): Error {
  return deviceProgramErrors.error("DEVICE_TASK_MISSING", `${what} before a task was announced`);
}
