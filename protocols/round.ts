// The life of a round as a pure state machine: who takes part, who has delivered, when it closes and
// when it is opened again. Clocks and messages stay outside.
import { compareDeviceIds } from "./aggregation/index.ts";

/** Where one device stands in a round. */
export type LanePhase = "open" | "delivered" | "lost";

/** A round in progress. */
export interface RoundState {
  /** From 1. */
  readonly round: number;
  /** From 1; rises each time the round is opened again. */
  readonly attempt: number;
  /** Phase of each device of the cohort, by device id. */
  readonly lanes: ReadonlyMap<string, LanePhase>;
}

/** What can happen to a round. */
export type RoundEvent =
  | { readonly kind: "joined"; readonly deviceId: string }
  | { readonly kind: "delivered"; readonly deviceId: string }
  | { readonly kind: "lost"; readonly deviceId: string };

/** What to do next. */
export type RoundDecision =
  | { readonly kind: "wait" }
  /** Fold what the accepted devices delivered, in device-id order. */
  | { readonly kind: "close"; readonly accepted: readonly string[] }
  /** Too few delivered: start the next attempt from the same global model. */
  | { readonly kind: "reopen"; readonly reason: string };

/** When a round may close. */
export interface RoundRules {
  readonly minimumDevices: number;
  readonly deadlinePassed: boolean;
}

/** A round that waits for the devices of `cohort` from the start, so that the quickest cannot close it alone. */
export function openRound(round: number, attempt = 1, cohort: Iterable<string> = []): RoundState {
  return { round, attempt, lanes: new Map([...cohort].map((deviceId) => [deviceId, "open"])) };
}

/** The round after an event. A delivery is final; a lost device that joins again starts over. */
export function advance(state: RoundState, { kind, deviceId }: RoundEvent): RoundState {
  if (state.lanes.get(deviceId) === "delivered") return state;
  const phase: LanePhase = kind === "joined" ? "open" : kind;
  return { ...state, lanes: new Map(state.lanes).set(deviceId, phase) };
}

/**
 * Closes a round when enough devices have delivered and no lane is open, or the deadline has passed. Below
 * the minimum it waits until the deadline, so that what was delivered is not thrown away while a lost
 * device may come back, and only then opens the round again.
 */
export function decide(
  { lanes }: RoundState,
  { minimumDevices, deadlinePassed }: RoundRules,
): RoundDecision {
  const inPhase = (wanted: LanePhase) =>
    [...lanes].filter(([, phase]) => phase === wanted).map(([deviceId]) => deviceId);
  const accepted = inPhase("delivered").sort(compareDeviceIds);
  const enough = accepted.length >= minimumDevices;
  const done = inPhase("open").length === 0;
  if (enough && (done || deadlinePassed)) return { kind: "close", accepted };
  if (!deadlinePassed) return { kind: "wait" };
  const reason = `${accepted.length} of at least ${minimumDevices} devices delivered`;
  return { kind: "reopen", reason };
}
