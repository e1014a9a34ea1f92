// One device's lane at the coordinator, from its start to what it gives the round. Journal first, answer
// second: an upload is acknowledged only once it is on the disk.
import type { LaneProgress, Reply } from "../../broker/index.ts";
import type {
  AnyProtocol,
  Assignment,
  GlobalModel,
  Lane,
  LaneResult,
  Payload,
  RoundCost,
  RoundInfo,
  ServerSide,
} from "../../protocols/index.ts";
import { decodeStored, encodeStored } from "../stored-message.ts";
import type { RecordedLane } from "./recovery.ts";
import type { RunFolder } from "./run-folder.ts";

/** What a lane is opened with. */
export interface LaneOptions {
  readonly folder: RunFolder;
  readonly protocol: AnyProtocol;
  readonly server: ServerSide<Payload, Payload>;
  readonly assignment: Assignment;
  readonly info: RoundInfo;
  readonly global: GlobalModel;
  /** What the journal holds of it. */
  readonly recorded?: RecordedLane;
  /** What a new lane's record says of its device. */
  readonly device?: LaneDevice;
}

/** A device as reports need it. */
export interface LaneDevice {
  readonly board: string;
  /** What selection expects a round to take. */
  readonly estimate: RoundCost | undefined;
}

/** A lane with its journal. */
export interface JournaledLane {
  readonly assignment: Assignment;
  readonly info: RoundInfo;
  readonly first: Payload;
  /** What the protocol took to make `first`: kd computes the global model's logits. */
  readonly openingSeconds: number;
  /** What the inbox must know of messages before a crash. */
  readonly progress: LaneProgress;
  /** Takes one message of the device. */
  process(up: Payload, sequence: number, signal: AbortSignal): Promise<Payload | undefined>;
  hasResult(): Promise<boolean>;
  /** What it came to, read from the journal where it can be: a thousand delivered lanes hold no update in memory. */
  result(): Promise<LaneResult | undefined>;
  /** Whether the process that ran it is gone: its device is to begin anew. */
  isLost(): boolean;
  close(): Promise<void>;
}

/** What the names of a lane's files in the run folder begin with. */
export function uploadPrefix({
  assignment,
  info,
}: Pick<LaneOptions, "assignment" | "info">): string {
  return `${info.round}-${info.attempt}-${assignment.deviceId}-${info.lane}-`;
}

/** Opens a lane, or opens it again with what the journal holds. */
export async function openJournaledLane(options: LaneOptions): Promise<JournaledLane> {
  const { folder, protocol, server, assignment, info, global, recorded, device } = options;
  const { deviceId } = assignment;
  const started = performance.now();
  const lane = await server.openLane(assignment, info, global);
  const openingSeconds = (performance.now() - started) / 1000;
  const saved = recorded?.result
    ? await restoredResult(folder, deviceId, recorded.result)
    : undefined;
  if (!recorded) {
    const { round, attempt, lane: number } = info;
    await folder.journal.append({
      kind: "lane",
      round,
      attempt,
      lane: number,
      deviceId,
      assignment,
      resumable: lane.resumable,
      ...device,
    });
  }
  const uploads = [...(recorded?.uploads ?? [])];
  const progress = await replay(options, lane, uploads);
  let isOnDisk = false;
  /** Lets go of what a delivered lane holds: its messages are in the journal. */
  const rest = async (): Promise<void> => {
    isOnDisk = true;
    await lane.close();
  };
  if (lane.resumable && uploads.length > 0 && !progress.answers.get(progress.lastSequence))
    await rest();
  return {
    assignment,
    info,
    first: lane.first,
    openingSeconds,
    progress,
    process: async (payload, sequence, signal) => {
      const answer = await lane.receive(protocol.parseUp(payload), signal);
      // Every message that a replay needs, answered or not: the device counts on from the last one.
      if (lane.resumable) {
        uploads.push({ sequence, file: await journalUpload(options, payload, sequence) });
        if (answer === undefined) await rest();
      } else if (answer === undefined && !lane.endsWithRound)
        await journalResult(options, lane, sequence);
      return answer;
    },
    hasResult: async () => isOnDisk || (saved ?? (await lane.finish())) !== undefined,
    result: async () => saved ?? (await (isOnDisk ? replayed(options, uploads) : lane.finish())),
    isLost: () => lane.isLost?.() ?? false,
    close: () => lane.close(),
  };
}

/** Keeps a message as it came, for lanes that can be replayed. */
async function journalUpload(
  options: LaneOptions,
  payload: Payload,
  sequence: number,
): Promise<string> {
  const { folder, assignment, info } = options;
  const { deviceId } = assignment;
  const file = await folder.saveUpload(
    `${laneName(options)}-${sequence}.envelope`,
    await encodeStored(payload, { sender: deviceId, sequence }),
  );
  await folder.journal.append({ kind: "upload", deviceId, lane: info.lane, sequence, file });
  return file;
}

/** What the messages of a lane come to, from the journal. */
async function replayed(
  options: LaneOptions,
  uploads: RecordedLane["uploads"],
): Promise<LaneResult | undefined> {
  const { server, assignment, info, global } = options;
  const lane = await server.openLane(assignment, info, global);
  try {
    await replay(options, lane, uploads);
    return await lane.finish();
  } finally {
    await lane.close();
  }
}

/** Keeps what a lane that lives in memory came to, once it has. */
async function journalResult(
  options: LaneOptions,
  lane: Lane<Payload, Payload>,
  sequence: number,
): Promise<void> {
  const { folder, assignment, info } = options;
  const { deviceId } = assignment;
  const result = await lane.finish();
  if (result?.kind !== "contribution") return;
  const file = await folder.saveUpdate(
    `${laneName(options)}-${sequence}.safetensors`,
    result.update,
  );
  await folder.journal.append({
    kind: "result",
    deviceId,
    lane: info.lane,
    sequence,
    file,
    weight: result.weight,
  });
}

function laneName({ assignment, info }: LaneOptions): string {
  return `${info.round}-${info.attempt}-${assignment.deviceId}-${info.lane}`;
}

/** Gives the lane the messages that the journal holds. */
async function replay(
  { folder, protocol, recorded }: LaneOptions,
  lane: Lane<Payload, Payload>,
  uploads: RecordedLane["uploads"],
): Promise<LaneProgress> {
  const answers = new Map<number, Payload | undefined>();
  for (const { file, sequence } of uploads) {
    const up = protocol.parseUp(await decodeStored(await folder.readUpload(file)));
    answers.set(sequence, await lane.receive(up, new AbortController().signal));
  }
  if (recorded?.result) answers.set(recorded.result.sequence, undefined);
  return { lastSequence: Math.max(0, ...answers.keys()), answers };
}

async function restoredResult(
  folder: RunFolder,
  deviceId: string,
  { file, weight }: { readonly file: string; readonly weight: number },
): Promise<LaneResult> {
  return { kind: "contribution", deviceId, weight, update: await folder.readUpdate(file) };
}

/** The reply that says no more than that a message was taken. */
export const noted: Reply = { kind: "noted" };
