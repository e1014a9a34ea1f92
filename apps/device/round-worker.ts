// Runs the rounds a coordinator starts on this device: one at a time, the newest lane wins. Measures
// what each round took.
import {
  createRoundLink,
  deliverKept,
  type LanePlace,
  type Link,
  type Transport,
} from "../../broker/index.ts";
import type { BoardState } from "../../devices/index.ts";
import {
  type Allowance,
  type AnyProtocol,
  type Assignment,
  type ClientSide,
  findProtocol,
  type Payload,
  type RoundInfo,
  type TrainReport,
  wayOf,
  withoutSections,
} from "../../protocols/index.ts";
import { type Engine, type Example, type Tokenizer, TrifoldError } from "../../runtime/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import { errorText } from "../error-text.ts";
import { isInterruption } from "../failure.ts";
import type { KeptUpload } from "./kept-upload.ts";
import { type LinkReading, readLink, uplinkMeter } from "./link-meter.ts";
import {
  markPeak,
  peakResidentBytes,
  residentBytes,
  settledResidentBytes,
} from "./process-memory.ts";
import { heldFor, type Workplace } from "./workplace.ts";

/** What a round is started with. */
export interface RoundStart {
  readonly assignment: Assignment;
  /** The last accepted round was done in another way. */
  readonly isReassigned: boolean;
  readonly info: RoundInfo;
  readonly first: Payload;
}

/** What a worker needs of its device. */
export interface RoundWorkerOptions {
  readonly deviceId: string;
  readonly link: Link;
  readonly transport: Transport;
  readonly engine: Engine;
  readonly protocols: readonly AnyProtocol[];
  readonly workplace: Workplace;
  /** The public texts in a tokenizer's tokens. */
  readonly publicSet: (tokenizer: Tokenizer) => Promise<readonly Example[]>;
  /** Bytes that were fetched since the last call, outside of lanes. */
  readonly takeFetchedBytes: () => number;
  /** Memory and heat of the board; absent where they are declared. */
  readonly readState?: () => Promise<BoardState>;
  /** Told when a lane begins and ends. */
  readonly onActivity: (activity: string, info: RoundInfo) => void;
  readonly log: (message: string) => void;
}

/** The rounds of one device in one task. */
export interface RoundWorker {
  /** Begins a lane, or gives false when it runs or ran already. */
  start(round: RoundStart): boolean;
  /** Delivers what a former process of this device finished. */
  deliver(upload: KeptUpload): void;
  /** Counts traffic from here on as the next round's, unless a lane is running. */
  markTraffic(): void;
  /** Ends the running lane and frees the model. */
  close(): Promise<void>;
}

/** A worker without a lane. */
export function createRoundWorker(options: RoundWorkerOptions): RoundWorker {
  return new StandingWorker(options);
}

/** A protocol's device end with what it was created for. */
interface LoadedClient {
  readonly key: string;
  readonly protocol: AnyProtocol;
  readonly client: ClientSide<Payload, Payload>;
}

class StandingWorker implements RoundWorker {
  readonly #options: RoundWorkerOptions;
  /** The newest lane that was started, and the one that runs, 0 for none: it may still be ending. */
  #lane = 0;
  #runningLane = 0;
  #isReassigned = false;
  #allowance: Allowance | undefined;
  #stop = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #loaded: LoadedClient | undefined;
  #traffic: LinkReading;
  /** Bytes fetched for this round: of the model and of the public set. */
  #provisioningBytes = 0;
  /** Resident bytes before anything of the model was loaded. */
  #idleBytes: number | undefined;

  constructor(options: RoundWorkerOptions) {
    this.#options = options;
    this.#traffic = readLink(options);
  }

  start(round: RoundStart): boolean {
    if (round.info.lane <= this.#lane) return false;
    this.#lane = round.info.lane;
    this.#stop.abort(new Error(`lane ${round.info.lane} replaces this one`));
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#running = this.#running.then(() => this.#run(round, signal));
    return true;
  }

  deliver(upload: KeptUpload): void {
    const { lane } = upload.place;
    if (lane <= this.#lane) return;
    this.#lane = lane;
    const { signal } = this.#stop;
    this.#running = this.#running.then(() => this.#deliver(upload, signal));
  }

  markTraffic(): void {
    if (this.#runningLane === 0) this.#traffic = readLink(this.#options);
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error("the device stops"));
    await this.#running;
    await this.#loaded?.client.close();
    this.#loaded = undefined;
  }

  /** Never rejects: what the coordinator no longer takes is of a round that is over. */
  async #deliver({ place, report, ...message }: KeptUpload, signal: AbortSignal): Promise<void> {
    const { link, log, workplace } = this.#options;
    if (signal.aborted) return;
    log(`round ${place.round}: delivering what was trained before this start`);
    try {
      await deliverKept({ link, task: workplace.task.name, place, signal }, message);
      await link.request({ ...place, kind: "report", fields: { ...report } }, { signal });
    } catch (error) {
      if (signal.aborted || isInterruption(error)) return;
      log(`round ${place.round}: it is no longer wanted: ${errorText(error).message}`);
    }
    await this.#forgetUpload();
  }

  /** A disk that cannot forget it costs a message that is refused as stale. */
  async #forgetUpload(): Promise<void> {
    const { workplace, log } = this.#options;
    await workplace.uploads.forget().catch((error: Error) => log(error.message));
  }

  /** Never rejects: a failed round is reported to the coordinator, which decides what becomes of it. */
  async #run(round: RoundStart, signal: AbortSignal): Promise<void> {
    const { link, log, onActivity } = this.#options;
    const { globalStep: _, acceptedLane: __, ...place } = round.info;
    if (signal.aborted) return;
    this.#runningLane = place.lane;
    this.#isReassigned = round.isReassigned;
    this.#allowance = round.assignment.allowance;
    onActivity(round.assignment.protocol, round.info);
    try {
      const report = await this.#train(round, place, signal);
      await link.request({ ...place, kind: "report", fields: { ...report } }, { signal });
      await this.#forgetUpload();
    } catch (error) {
      // The engine gives a round up when the device is stopped, before the lane is.
      if (signal.aborted || isInterruption(error)) return;
      const { code, message } = errorText(error);
      log(`round ${place.round} failed: ${code}: ${message}`);
      // An error without a code of ours may quote anything, so its text stays here.
      const told =
        error instanceof TrifoldError ? message.slice(0, 4000) : "see the log of the device";
      await link
        .request({ ...place, kind: "failed", fields: { code, message: told } }, { signal })
        .catch(() => {});
    } finally {
      this.#runningLane = 0;
      // What comes from here on belongs to the next round, whenever that is announced; a lane that was replaced is
      // part of the one that replaces it.
      if (!signal.aborted) this.markTraffic();
      onActivity("idle", round.info);
    }
  }

  async #train(
    { assignment, info, first }: RoundStart,
    place: LanePlace,
    signal: AbortSignal,
  ): Promise<DeviceRoundReport> {
    const { link, workplace } = this.#options;
    this.#provisioningBytes = this.#options.takeFetchedBytes();
    this.#idleBytes ??= await settledResidentBytes();
    markPeak();
    const started = performance.now();
    const { protocol, client } = await this.#clientFor(assignment, signal);
    const raw = { up: 0, down: protocol.rawBytes(first) };
    const parseDown = (payload: Payload) => {
      const down = protocol.parseDown(payload);
      raw.down += protocol.rawBytes(down);
      return down;
    };
    const keep = async (up: Payload, sequence: number, soFar: TrainReport) => {
      const measured = this.#measured(soFar, raw, started);
      await workplace.uploads
        .keep({ place, sequence, up, report: measured })
        .catch((error: Error) =>
          // The round goes on: only a restart before it is delivered would miss it.
          this.#options.log(`the update is not kept on disk: ${error.message}`),
        );
    };
    const task = workplace.task.name;
    const lane = createRoundLink({ link, task, place, parseDown, signal, keep });
    const count = (up: Payload) => {
      raw.up += protocol.rawBytes(up);
      return up;
    };
    const uplink = uplinkMeter(() => readLink(this.#options).uplinkBytes);
    const counted = {
      send: (up: Payload, soFar?: TrainReport) => uplink.time(() => lane.send(count(up), soFar)),
      ask: (up: Payload) => lane.ask(count(up)),
    };
    const report = await client.runRound(info, protocol.parseDown(first), counted, signal);
    const measured = this.#measured(report, raw, started);
    const board = await this.#options.readState?.();
    if (!board) return measured;
    return { ...measured, state: { ...this.#unloaded(board), ...uplink.rate() } };
  }

  /** What would be available if nothing of the model were loaded. */
  #unloaded({ availableBytes, ...heat }: BoardState): BoardState {
    if (availableBytes === undefined) return heat;
    const loadedBytes = Math.max(0, residentBytes() - (this.#idleBytes ?? 0));
    return { ...heat, availableBytes: availableBytes + loadedBytes };
  }

  #measured(
    report: TrainReport,
    raw: { readonly up: number; readonly down: number },
    started: number,
  ): DeviceRoundReport {
    const now = readLink(this.#options);
    const idleBytes = this.#idleBytes ?? 0;
    return {
      ...report,
      trainSeconds: (performance.now() - started) / 1000,
      peakMemoryBytes: peakResidentBytes() - idleBytes,
      idleMemoryBytes: idleBytes,
      uplinkBytes: now.uplinkBytes - this.#traffic.uplinkBytes,
      downlinkBytes: now.downlinkBytes - this.#traffic.downlinkBytes,
      rawUplinkBytes: raw.up,
      rawDownlinkBytes: raw.down,
      provisioningBytes: this.#provisioningBytes,
      repeatedBytes: now.repeatedBytes - this.#traffic.repeatedBytes,
    };
  }

  /** What is fetched once is counted apart from the round. */
  async #provision<T>(fetch: () => Promise<T>): Promise<T> {
    const before = readLink(this.#options);
    const fetched = await fetch();
    const after = readLink(this.#options);
    const uplinkBytes = after.uplinkBytes - before.uplinkBytes;
    const downlinkBytes = after.downlinkBytes - before.downlinkBytes;
    this.#provisioningBytes += uplinkBytes + downlinkBytes;
    this.#traffic = {
      uplinkBytes: this.#traffic.uplinkBytes + uplinkBytes,
      downlinkBytes: this.#traffic.downlinkBytes + downlinkBytes,
      repeatedBytes: this.#traffic.repeatedBytes,
    };
    return fetched;
  }

  /** The protocol's device end; it stays loaded while all of the assignment stays but its allowance. */
  async #clientFor(assignment: Assignment, signal: AbortSignal): Promise<LoadedClient> {
    const { protocols, deviceId, engine, workplace, publicSet, log } = this.#options;
    const { protocol: name, protocolVersion } = assignment;
    const { allowance: _, ...way } = wayOf(assignment);
    const key = JSON.stringify([name, protocolVersion, way]);
    if (this.#loaded?.key === key) return this.#loaded;
    await this.#loaded?.client.close();
    this.#loaded = undefined;
    const protocol = findProtocol(protocols, name, protocolVersion);
    const { state } = workplace;
    const { task, modelWith, tokenizer, train, holdOut } = heldFor(workplace, protocol);
    const needed = protocol.tensors?.(task, assignment);
    const model = await this.#provision(() => modelWith(needed, signal));
    const lane = () => this.#runningLane;
    const client = await protocol.createClient({
      task,
      deviceId,
      assignment,
      allowance: () => this.#allowance,
      engine,
      model,
      train,
      holdOut,
      publicSet: () => this.#provision(() => publicSet(tokenizer)),
      state: {
        read: async () => {
          const kept = await state.forLane(lane()).read();
          return this.#isReassigned ? withoutSections(kept, ofOneWay) : kept;
        },
        stage: (tensors) => state.forLane(lane()).stage(tensors),
      },
      rows: state.rows,
      log,
    });
    this.#loaded = { key, protocol, client };
    return this.#loaded;
  }
}

/** What belongs to the way in which a device took part: another cut or framework has other tensors, or other gradients. */
const ofOneWay = ["moments", "residual"] as const;
