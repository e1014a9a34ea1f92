// The devices of a run: who is there, what each one is, and which framework it got. A device that
// appears is asked what it is, told the task, and counts as ready once it holds model and data.
import {
  coordinatorId,
  coordinatorLinkTopics,
  createLaneInbox,
  createLink,
  type Envelope,
  type LaneInbox,
  type Link,
  type Log,
  type PeerStatus,
  type Reply,
  type Transport,
  topicsOf,
  watchPresence,
} from "../../broker/index.ts";
import {
  type DeviceBudget,
  type DeviceProfile,
  parseBudget,
  parseProfile,
} from "../../devices/index.ts";
import {
  type AnyProtocol,
  type Assignment,
  assignDevice,
  protocolErrors,
  requireAssignment,
  type Selection,
  type Task,
  taskFingerprint,
} from "../../protocols/index.ts";
import { descriptionSchema, readFields, readySchema } from "../control-messages.ts";
import type { OnEvent } from "./events.ts";

/** A device that holds the task's model and data. */
export interface ReadyDevice {
  readonly id: string;
  /** Random id of the device's process. */
  readonly instance: string;
  readonly link: Link;
  readonly inbox: LaneInbox;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  readonly selection: Selection;
  readonly assignment: Assignment;
  readonly examples: number;
}

/** The devices of a run. */
export interface Fleet {
  /** By device id. */
  readonly ready: ReadonlyMap<string, ReadyDevice>;
  /** Whether the device's status says that it is connected. */
  isOnline(deviceId: string): boolean;
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
  readonly protocols: readonly AnyProtocol[];
  /** What a device that asks for the public set gets. */
  readonly publicBytes: Uint8Array;
  readonly onEvent: OnEvent;
  readonly log: Log;
}

interface Member {
  readonly link: Link;
  readonly inbox: LaneInbox;
  instance: string;
  joining: AbortController;
}

/** Follows the devices' presence and brings each one in. */
export async function openFleet(options: FleetOptions): Promise<Fleet> {
  const { transport, federation, log } = options;
  const roster = createRoster(options);
  const changed = (deviceId: string, status: PeerStatus | undefined): void => {
    if (status?.state === "online") void roster.join(deviceId, status.instance);
    else roster.leave(deviceId);
  };
  const topics = topicsOf(federation);
  const watch = await watchPresence({ transport, topics, onChange: changed, log });
  return {
    ready: roster.ready,
    isOnline: (deviceId) => watch.devices.get(deviceId)?.state === "online",
    listen: roster.listen,
    changed: roster.changed,
    close: async () => {
      watch.close();
      await roster.close();
    },
  };
}

function createRoster(options: FleetOptions) {
  const { onEvent } = options;
  const members = new Map<string, Member>();
  const ready = new Map<string, ReadyDevice>();
  let listener: FleetListener | undefined;
  let wake = new AbortController();

  const changed = () => {
    wake.abort();
    wake = new AbortController();
  };
  const leave = (deviceId: string): void => {
    members.get(deviceId)?.joining.abort();
    if (!ready.delete(deviceId)) return;
    onEvent({ kind: "gone", deviceId });
    listener?.onGone(deviceId);
    changed();
  };
  const answer: Answer = (deviceId, request, signal) => {
    if (request.kind === "public-set") return Promise.resolve(publicSetReply(options.publicBytes));
    if (listener) return listener.onRequest(deviceId, request, signal);
    throw protocolErrors.error("PROTOCOL_OUT_OF_TURN", "the run has not begun yet");
  };
  const memberOf = async (deviceId: string): Promise<Member> => {
    const member = members.get(deviceId) ?? (await createMember(deviceId, options, answer));
    members.set(deviceId, member);
    return member;
  };
  const join = async (deviceId: string, instance: string): Promise<void> => {
    const member = await memberOf(deviceId);
    if (member.instance === instance && !member.joining.signal.aborted) return;
    leave(deviceId);
    member.instance = instance;
    member.joining = new AbortController();
    const { signal } = member.joining;
    onEvent({ kind: "joining", deviceId });
    try {
      const device = await bringIn(deviceId, member, options, signal);
      if (signal.aborted) return;
      ready.set(deviceId, device);
      onEvent({
        kind: "assigned",
        deviceId,
        board: device.profile.board.model,
        selection: device.selection,
      });
      listener?.onReady(device);
      changed();
    } catch (error) {
      if (!signal.aborted) onEvent({ kind: "refused", deviceId, ...describe(error) });
    }
  };
  return {
    ready,
    join,
    leave,
    listen: (next: FleetListener) => {
      listener = next;
    },
    changed: (signal: AbortSignal) =>
      new Promise<void>((resolve) => {
        AbortSignal.any([signal, wake.signal]).addEventListener("abort", () => resolve(), {
          once: true,
        });
      }),
    close: async () => {
      for (const member of members.values()) {
        member.joining.abort();
        await member.link.close();
      }
    },
  };
}

type Answer = FleetListener["onRequest"];

async function createMember(
  deviceId: string,
  { transport, federation, log }: FleetOptions,
  answer: Answer,
): Promise<Member> {
  const link = await createLink({
    transport,
    federation,
    self: coordinatorId,
    peer: deviceId,
    ...coordinatorLinkTopics(federation, deviceId),
    onRequest: (request, signal) => answer(deviceId, request, signal),
    log,
  });
  const joining = new AbortController();
  joining.abort();
  return { link, inbox: createLaneInbox(deviceId), instance: "", joining };
}

function publicSetReply(bytes: Uint8Array): Reply {
  return { kind: "public-set", blobs: new Map([["texts", bytes]]) };
}

/** Asks a device what it is, tells it the task, waits until it is ready and decides what it does. */
async function bringIn(
  id: string,
  { link, inbox, instance }: Member,
  { task, protocols }: FleetOptions,
  signal: AbortSignal,
): Promise<ReadyDevice> {
  const description = readFields(
    await link.request({ kind: "describe" }, { signal }),
    descriptionSchema,
  );
  const profile = parseProfile(description.profile, `device ${id}: profile`);
  const budget = parseBudget(description.budget, `device ${id}: budget`);
  const fields = { task: task as unknown as Readonly<Record<string, unknown>> };
  const answer = readFields(
    await link.request({ kind: "prepare", fields }, { signal }),
    readySchema,
  );
  if (answer.fingerprint !== taskFingerprint(task)) {
    throw protocolErrors.error("TASK_INVALID", `device ${id} understood another task`, {
      hint: "Install the same version of Trifold on the coordinator and on the device.",
    });
  }
  const offer = {
    deviceId: id,
    profile,
    budget,
    holdOut: answer.holdOut,
    protocols: description.protocols,
  };
  const selection = assignDevice(protocols, task, offer);
  const assignment = requireAssignment(id, selection);
  const { examples } = answer;
  return { id, instance, link, inbox, profile, budget, selection, assignment, examples };
}

function describe(error: unknown): { code: string; message: string; hint?: string } {
  const {
    code = "UNEXPECTED",
    message = String(error),
    hint,
  } = error as { code?: string; message?: string; hint?: string };
  return { code, message, ...(hint === undefined ? {} : { hint }) };
}
