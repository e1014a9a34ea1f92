// The devices of a run: who is there, what each one is, and which framework it got. A device that
// appears is asked what it is, told the task, and counts as ready once it holds model and data.
import { join } from "node:path";
import {
  coordinatorId,
  coordinatorLinkTopics,
  createIntake,
  createLaneInbox,
  createLink,
  type Envelope,
  type Intake,
  type LaneInbox,
  type LanePlace,
  type Link,
  type Log,
  openPieceFiles,
  type PeerStatus,
  type PresenceWatch,
  type Reply,
  systemClock,
  type Transport,
  topicsOf,
  watchPresence,
} from "../../broker/index.ts";
import type { DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import type { Assignment, DeviceOffer, Selection, Task } from "../../protocols/index.ts";
import { errorText } from "../error-text.ts";
import { bringIn } from "./bring-in.ts";
import type { OnEvent } from "./events.ts";
import type { Supplies } from "./supplies.ts";

/** A device that holds the task's model and data. */
export interface ReadyDevice {
  readonly id: string;
  /** Random id of the device's process. */
  readonly instance: string;
  /** Aborted when the device leaves. */
  readonly gone: AbortSignal;
  readonly link: Link;
  readonly inbox: LaneInbox;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  readonly selection: Selection;
  readonly assignment: Assignment;
  readonly examples: number;
  /** What it said of itself when it joined. */
  readonly offer: DeviceOffer;
  /** A lane that a former process of the device finished, and that this one delivers. */
  readonly delivers: LanePlace | undefined;
}

/** The devices of a run. */
export interface Fleet {
  /** By device id. */
  readonly ready: ReadonlyMap<string, ReadyDevice>;
  /** Gives a ready device something else to do from its next lane on. */
  reassign(
    deviceId: string,
    change: Pick<ReadyDevice, "assignment" | "selection" | "profile">,
  ): void;
  /** Whether the device's status says that it was stopped: it will not come back by itself. */
  hasLeft(deviceId: string): boolean;
  /** Called when a device becomes ready or goes; replaces the last listener. */
  listen(listener: FleetListener): void;
  /** Resolves when a device became ready or went, or when the signal is aborted. */
  changed(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** What the run wants to hear. */
export interface FleetListener {
  onReady(device: ReadyDevice): void;
  onGone(deviceId: string): void;
  /** A lane message, a report or a failure of a device. */
  onRequest(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply>;
}

/** What a fleet is made of. */
export interface FleetOptions {
  readonly transport: Transport;
  readonly federation: string;
  readonly task: Task;
  /** What a device that joins does. */
  readonly assign: (offer: DeviceOffer) => Selection;
  /** Keeps what has come of messages over a restart. */
  readonly incomingFolder: string;
  /** What devices may fetch before they are ready and after. */
  readonly supplies: Supplies;
  readonly onEvent: OnEvent;
  readonly log: Log;
}

interface Member {
  readonly link: Link;
  readonly inbox: LaneInbox;
  instance: string;
  joining: AbortController;
}

/** Of all devices' messages on their way in: each takes some times as much while it is unpacked and journaled. */
const intakeBytes = 16 * 1024 * 1024;

/** Follows the devices' presence and brings each one in. */
export async function openFleet(options: FleetOptions): Promise<Fleet> {
  const roster = new Roster(options);
  await roster.open();
  return roster;
}

class Roster implements Fleet {
  readonly ready = new Map<string, ReadyDevice>();
  readonly #options: FleetOptions;
  readonly #members = new Map<string, Promise<Member>>();
  readonly #intake = createIntake({ maxBytes: intakeBytes, clock: systemClock });
  #watch: PresenceWatch | undefined;
  #listener: FleetListener | undefined;
  #wake = new AbortController();

  constructor(options: FleetOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { transport, federation, log } = this.#options;
    const topics = topicsOf(federation);
    const onChange = (deviceId: string, status: PeerStatus | undefined): void => {
      const isHere = status?.state === "online";
      const work = isHere ? this.#join(deviceId, status.instance) : this.#leave(deviceId);
      // What one device does not take is no failure of the run.
      work.catch((error: Error) => log(`${deviceId} could not be reached: ${error.message}`));
    };
    this.#watch = await watchPresence({ transport, topics, onChange, log });
  }

  listen(listener: FleetListener): void {
    this.#listener = listener;
    this.#announce();
  }

  changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const either = AbortSignal.any([signal, this.#wake.signal]);
      if (either.aborted) resolve();
      else either.addEventListener("abort", () => resolve(), { once: true });
    });
  }

  reassign(
    deviceId: string,
    change: Pick<ReadyDevice, "assignment" | "selection" | "profile">,
  ): void {
    const device = this.ready.get(deviceId);
    if (device) this.ready.set(deviceId, { ...device, ...change });
  }

  hasLeft(deviceId: string): boolean {
    return this.#watch?.devices.get(deviceId)?.state === "offline";
  }

  async close(): Promise<void> {
    this.#watch?.close();
    for (const member of await Promise.allSettled(this.#members.values())) {
      if (member.status === "rejected") continue;
      member.value.joining.abort(notThere);
      await member.value.link.close();
    }
  }

  async #join(deviceId: string, instance: string): Promise<void> {
    const member = await this.#memberOf(deviceId);
    if (member.instance === instance && !member.joining.signal.aborted) return;
    this.#dismiss(deviceId, member);
    member.instance = instance;
    member.joining = new AbortController();
    const { signal } = member.joining;
    this.#options.onEvent({ kind: "joining", deviceId });
    try {
      const { link, inbox } = member;
      const found = await bringIn(deviceId, link, this.#options, signal);
      const device = { ...found, id: deviceId, instance, gone: signal, link, inbox };
      if (!signal.aborted) this.#welcome(device);
    } catch (error) {
      if (!signal.aborted) await this.#refuse(deviceId, member, error);
    }
  }

  async #leave(deviceId: string): Promise<void> {
    const member = await this.#members.get(deviceId);
    if (member) this.#dismiss(deviceId, member);
  }

  #memberOf(deviceId: string): Promise<Member> {
    const known = this.#members.get(deviceId);
    if (known) return known;
    const answer: Answer = (request, signal) => this.#answer(deviceId, request, signal);
    const member = createMember(deviceId, this.#options, { answer, intake: this.#intake });
    this.#members.set(deviceId, member);
    member.catch(() => this.#members.delete(deviceId));
    return member;
  }

  #welcome(device: ReadyDevice): void {
    const { id: deviceId, selection, profile } = device;
    this.ready.set(deviceId, device);
    const board = profile.board.model;
    this.#options.onEvent({ kind: "assigned", deviceId, board, selection });
    this.#listener?.onReady(device);
    this.#announce();
  }

  /** Both logs say why: the device's owner may not see the coordinator's. */
  async #refuse(deviceId: string, { link, joining }: Member, error: unknown): Promise<void> {
    const refusal = errorText(error);
    this.#options.onEvent({ kind: "refused", deviceId, ...refusal });
    try {
      await link.request({ kind: "refused", fields: { ...refusal } }, { signal: joining.signal });
    } catch (why) {
      if (!joining.signal.aborted) throw why;
    }
  }

  #dismiss(deviceId: string, member: Member): void {
    member.joining.abort(notThere);
    if (!this.ready.delete(deviceId)) return;
    this.#options.onEvent({ kind: "gone", deviceId });
    this.#listener?.onGone(deviceId);
    this.#announce();
  }

  /**
   * After a restart of the coordinator:
   *   1. the device hears the new process and repeats what it waits for, such as an upload;
   *   2. the device is asked what it is and told the task, as if it were new;
   *   3. its lane is restored from the journal.
   * So what comes at 1 waits for 3.
   */
  async #answer(deviceId: string, request: Envelope, signal: AbortSignal): Promise<Reply> {
    const supplied = await this.#options.supplies.answer(request);
    if (supplied) return supplied;
    while (!this.#listener || !this.ready.has(deviceId)) {
      await this.changed(signal);
      signal.throwIfAborted();
    }
    return this.#listener.onRequest(deviceId, request, signal);
  }

  #announce(): void {
    this.#wake.abort(changed);
    this.#wake = new AbortController();
  }
}

/** Why signals abort; made once, since each new one would collect a stack. */
const changed = new Error("the fleet has changed");
const notThere = new Error("the device is not there");

type Answer = (request: Envelope, signal: AbortSignal) => Promise<Reply>;

async function createMember(
  deviceId: string,
  { transport, federation, task, incomingFolder, log }: FleetOptions,
  { answer, intake }: { readonly answer: Answer; readonly intake: Intake },
): Promise<Member> {
  const link = await createLink({
    transport,
    federation,
    self: coordinatorId,
    peer: deviceId,
    ...coordinatorLinkTopics(federation, deviceId),
    maxPacketBytes: task.transport.maxPacketBytes,
    pieces: openPieceFiles({ folder: join(incomingFolder, deviceId), log }),
    intake,
    onRequest: answer,
    log,
  });
  const joining = new AbortController();
  joining.abort(notThere);
  return { link, inbox: createLaneInbox(deviceId), instance: "", joining };
}
