// Runs the rounds a coordinator starts on this device: one at a time, the newest lane wins. Measures
// what each round took.
import {
  createRoundLink,
  type LanePlace,
  type Link,
  type TrafficSide,
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
  #traffic: Meter;
  /** Bytes fetched for this round: of the model and of the public set. */
  #provisioningBytes = 0;
  /** Resident bytes before anything of the model was loaded. */
  #idleBytes: number | undefined;

  constructor(options: RoundWorkerOptions) {
    this.#options = options;
    this.#traffic = readMeter(options);
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

  markTraffic(): void {
    if (this.#runningLane === 0) this.#traffic = readMeter(this.#options);
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error("the device stops"));
    await this.#running;
    await this.#loaded?.client.close();
    this.#loaded = undefined;
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
    const lane = createRoundLink({ link, task: workplace.task.name, place, parseDown, signal });
    const count = (up: Payload) => {
      raw.up += protocol.rawBytes(up);
      return up;
    };
    const uplink = uplinkMeter(() => readMeter(this.#options).uplinkBytes);
    const counted = {
      send: (up: Payload) => uplink.time(() => lane.send(count(up))),
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
    const now = readMeter(this.#options);
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
    const before = readMeter(this.#options);
    const fetched = await fetch();
    const after = readMeter(this.#options);
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
      log,
    });
    this.#loaded = { key, protocol, client };
    return this.#loaded;
  }
}

/** What belongs to the way in which a device took part: another cut or framework has other tensors, or other gradients. */
const ofOneWay = ["moments", "residual"] as const;

/** Uploads below it say more of the round trip than of the rate. */
const tellingBytes = 64 * 1024;

/** Times uploads; the largest that is large enough to tell counts. */
function uplinkMeter(bytesSent: () => number) {
  let [mostBytes, bitsPerSecond] = [tellingBytes, 0];
  return {
    time: async (send: () => Promise<void>): Promise<void> => {
      const [before, started] = [bytesSent(), performance.now()];
      await send();
      const bytes = bytesSent() - before;
      if (bytes < mostBytes) return;
      mostBytes = bytes;
      bitsPerSecond = (8000 * bytes) / Math.max(performance.now() - started, 1);
    },
    rate: () => (bitsPerSecond > 0 ? { uplinkBitsPerSecond: bitsPerSecond } : {}),
  };
}

interface Meter {
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly repeatedBytes: number;
}

/** Bytes of the PUBLISH packets of the link, as the connection saw them. */
function readMeter({ transport, link }: Pick<RoundWorkerOptions, "transport" | "link">): Meter {
  const { sent, received } = transport.traffic.read();
  const bytes = (side: TrafficSide) => side.up.bytes + side.down.bytes;
  return {
    uplinkBytes: bytes(sent),
    downlinkBytes: bytes(received),
    repeatedBytes: link.counters().repeatedBytes,
  };
}
