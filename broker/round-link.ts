// The messages of one lane. The device numbers them 1, 2, 3 ...; the coordinator's inbox is the one place that
// knows which were processed: it answers repeats from store and refuses stale lanes. A number outlives the
// coordinator's process, which the link's own sequences do not.
import { z } from "zod";
import type { Payload, RoundInfo, RoundLink, TrainReport } from "../protocols/index.ts";
import type { Envelope } from "./codec/envelope.ts";
import { brokerErrors } from "./errors.ts";
import type { Link, OutgoingRequest, Reply } from "./link-seam.ts";

/** What tells a lane from every other lane of the device. */
export type LanePlace = Pick<RoundInfo, "round" | "attempt" | "lane">;

/** What a device's round speaks through. */
export interface RoundLinkOptions<Down extends Payload> {
  readonly link: Pick<Link, "request">;
  readonly task: string;
  readonly place: LanePlace;
  /** The protocol's own check of foreign payloads. */
  readonly parseDown: (payload: Payload) => Down;
  /** Ends the round: what waits rejects with its reason. */
  readonly signal: AbortSignal;
  /** Keeps a last message and what is to be reported, so that another process can deliver it. */
  readonly keep?: (up: Payload, sequence: number, report: TrainReport) => Promise<void>;
}

/** The kind of a lane's requests, and of the replies to them. */
export const laneKind = "lane";

/** The device's end of a lane. */
export function createRoundLink<Down extends Payload, Up extends Payload>(
  options: RoundLinkOptions<Down>,
): RoundLink<Down, Up> {
  const { link, task, place, signal, keep } = options;
  let lastSequence = 0;
  const request = (up: Up, laneSequence: number) =>
    link.request({ ...place, task, ...wrap(up, laneSequence) }, { signal });
  return {
    send: async (up, report) => {
      lastSequence += 1;
      const sequence = lastSequence;
      if (report !== undefined) {
        await keep?.(up, sequence, report);
      }
      await request(up, sequence);
    },
    ask: async (up) => {
      lastSequence += 1;
      const answer = readAnswer(await request(up, lastSequence));
      if (answer === undefined) {
        const text = `the coordinator gave no answer to a "${up.kind}" message`;
        throw brokerErrors.error("ENVELOPE_INVALID", text, {
          hint: "coordinator and device must run the same version of the protocol",
        });
      }
      return options.parseDown(answer);
    },
  };
}

/** Sends a kept message of a lane: a former process of the device may have sent it, or part of it. */
export async function deliverKept(
  { link, task, place, signal }: Omit<RoundLinkOptions<Payload>, "parseDown" | "keep">,
  { up, sequence }: { readonly up: Payload; readonly sequence: number },
): Promise<void> {
  await link.request({ ...place, task, ...wrap(up, sequence) }, { signal, mayBeThere: true });
}

/** What a lane has processed: what a journal restores after a crash. */
export interface LaneProgress {
  /** Sequence of the last processed message; 0 before the first. */
  readonly lastSequence: number;
  /** Answers to the last messages, by sequence; undefined where the message had none. */
  readonly answers: ReadonlyMap<number, Payload | undefined>;
}

/** Does with a lane's message what must happen once, journaling included; its result is the answer. */
export type LaneProcess = (up: Payload, laneSequence: number) => Promise<Payload | undefined>;

/** The coordinator's end of one device's lanes. */
export interface LaneInbox {
  /** Makes this the device's current lane; every other one is stale from now on. */
  open(place: LanePlace, restored?: LaneProgress): void;
  /** From now on every lane is stale. */
  close(): void;
  /**
   * Answers a lane message: by processing it after those numbered before it, or from store when it is a repeat. Rejects with
   * `LANE_STALE`, `LANE_ANSWER_LOST`, `ENVELOPE_INVALID`, or as `process` does; a repeat rejects alike.
   */
  accept(envelope: Envelope, process: LaneProcess): Promise<Reply>;
  counters(): LaneCounters;
}

/** What was not processed. */
export interface LaneCounters {
  readonly repeats: number;
  readonly stale: number;
}

/** An inbox of one device without a lane. */
export function createLaneInbox(deviceId: string): LaneInbox {
  const counters = { repeats: 0, stale: 0 };
  let current: CurrentLane | undefined;
  return {
    open: (place, restored) => {
      const former = current;
      current = openLane(place, restored);
      former?.release();
    },
    close: () => {
      const former = current;
      current = undefined;
      former?.release();
    },
    counters: () => ({ ...counters }),
    accept: async (envelope, process) => {
      const lane = current;
      if (lane === undefined || !isSamePlace(lane.place, envelope)) {
        counters.stale += 1;
        throw stale(deviceId, envelope, lane?.place);
      }
      const { laneSequence, payload } = readLaneMessage(envelope);
      const stored = lane.answers.get(laneSequence);
      if (stored !== undefined) {
        counters.repeats += 1;
        return stored;
      }
      checkSequence(deviceId, lane, laneSequence);
      const turn = lane.settled(laneSequence - 1).then(() => {
        // A lane that was replaced while this message waited for its turn.
        if (current !== lane) {
          counters.stale += 1;
          throw stale(deviceId, envelope, current?.place);
        }
        return process(payload, laneSequence);
      });
      return lane.keep(laneSequence, turn.then(toReply));
    },
  };
}

/** Answers kept: as many as a device may have asked for at once and not received. */
export const keptAnswers = 8;

interface CurrentLane {
  readonly place: LanePlace;
  readonly answers: ReadonlyMap<number, Promise<Reply>>;
  /** Sequence of the oldest message whose answer is still kept, less one. */
  forgotten(): number;
  /** Resolves once that message was processed, well or not. */
  settled(sequence: number): Promise<void>;
  keep(sequence: number, answer: Promise<Reply>): Promise<Reply>;
  /** The lane has ended: whatever waits for its turn goes on and finds that out. */
  release(): void;
}

function openLane(place: LanePlace, restored?: LaneProgress): CurrentLane {
  const answers = new Map<number, Promise<Reply>>();
  const waiting = new Map<number, () => void>();
  let forgotten = restored?.lastSequence ?? 0;
  for (const [sequence, answer] of restored?.answers ?? []) {
    answers.set(sequence, Promise.resolve(toReply(answer)));
  }
  const lastRestored = forgotten;
  const settled = (sequence: number): Promise<void> => {
    const answer = answers.get(sequence);
    if (sequence <= lastRestored || sequence <= forgotten) {
      return Promise.resolve();
    }
    if (answer !== undefined) {
      return answer.then(ignore, ignore);
    }
    return new Promise((resolve) => waiting.set(sequence, resolve));
  };
  return {
    place,
    answers,
    forgotten: () => forgotten,
    settled,
    release: () => {
      for (const goOn of waiting.values()) {
        goOn();
      }
    },
    keep: (sequence, answer) => {
      answers.set(sequence, answer);
      const finish = () => {
        waiting.get(sequence)?.();
        waiting.delete(sequence);
        answers.delete(sequence - keptAnswers);
        forgotten = Math.max(forgotten, sequence - keptAnswers);
      };
      answer.then(finish, finish);
      return answer;
    },
  };
}

/** A device has no more messages in flight than answers are kept. */
function checkSequence(deviceId: string, lane: CurrentLane, sequence: number): void {
  const forgotten = lane.forgotten();
  if (sequence <= forgotten) {
    const text = `the answer to message ${sequence} of lane ${lane.place.lane} of ${deviceId} is no longer kept`;
    throw brokerErrors.error("LANE_ANSWER_LOST", text, {
      hint: "the device starts the round again with a new lane",
    });
  }
  if (sequence > forgotten + 4 * keptAnswers) {
    const text = `message ${sequence} of lane ${lane.place.lane} of ${deviceId} is far ahead of ${forgotten}`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }
}

function stale(deviceId: string, envelope: Envelope, current: LanePlace | undefined): Error {
  const at = ({ round, attempt, lane }: LanePlace) =>
    `lane ${lane} (round ${round}, attempt ${attempt})`;
  const now = current === undefined ? "no lane is open" : `the current one is ${at(current)}`;
  const text = `${at(envelope)} of ${deviceId} is stale: ${now}`;
  const hint = "nothing to do: the device joins the next round";
  return brokerErrors.error("LANE_STALE", text, { hint });
}

function isSamePlace(a: LanePlace, b: LanePlace): boolean {
  return a.lane === b.lane && a.round === b.round && a.attempt === b.attempt;
}

/** Fields of a lane's request. */
export const laneRequestFields = z.strictObject({
  laneSequence: z.int().positive(),
  payload: z.strictObject({ kind: z.string(), fields: z.record(z.string(), z.unknown()) }),
});

/** Fields of the reply to one. */
export const laneReplyFields = z.strictObject({
  payload: laneRequestFields.shape.payload.optional(),
});

function wrap(up: Payload, laneSequence: number): OutgoingRequest {
  const payload = { kind: up.kind, fields: up.fields };
  return { kind: laneKind, fields: { laneSequence, payload }, ...bodiesOf(up) };
}

function toReply(answer: Payload | undefined): Reply {
  if (answer === undefined) {
    return { kind: laneKind };
  }
  const payload = { kind: answer.kind, fields: answer.fields };
  return { kind: laneKind, fields: { payload }, ...bodiesOf(answer) };
}

function bodiesOf({ tensors, blobs = new Map() }: Payload) {
  return { tensors, blobs };
}

function readAnswer({ fields, tensors, blobs }: Envelope): Payload | undefined {
  const result = laneReplyFields.safeParse(fields);
  if (!result.success) {
    throw brokerErrors.error("ENVELOPE_INVALID", "the reply to a lane message is malformed");
  }
  const { payload } = result.data;
  return payload === undefined ? undefined : { ...payload, tensors, blobs };
}

function readLaneMessage(envelope: Envelope): {
  readonly laneSequence: number;
  readonly payload: Payload;
} {
  const result = laneRequestFields.safeParse(envelope.fields);
  if (envelope.kind !== laneKind || !result.success) {
    const text = `a "${envelope.kind}" message of ${envelope.sender} is not a lane message`;
    throw brokerErrors.error("ENVELOPE_INVALID", text);
  }
  const { laneSequence, payload } = result.data;
  return {
    laneSequence,
    payload: { ...payload, tensors: envelope.tensors, blobs: envelope.blobs },
  };
}

function ignore(): void {}
