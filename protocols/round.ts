// The life of a round as a pure state machine: who takes part, who has delivered, when it closes and
// when it is opened again. Clocks and messages stay outside.

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

/** A round that nobody has joined yet. */
export function openRound(round: number, attempt = 1): RoundState {
  return { round, attempt, lanes: new Map() };
}

/** The round after an event. A delivery is final; a lost device that joins again starts over. */
export function advance(state: RoundState, event: RoundEvent): RoundState {
  const current = state.lanes.get(event.deviceId);
  if (current === "delivered") return state;
  const phase: LanePhase = event.kind === "joined" ? "open" : event.kind;
  return { ...state, lanes: new Map(state.lanes).set(event.deviceId, phase) };
}

/**
 * Closes a round when every lane has ended or the deadline has passed, and enough devices delivered;
 * opens it again when the deadline passed below the minimum or nobody is left to wait for.
 */
export function decide(
  state: RoundState,
  {
    minimumDevices,
    deadlinePassed,
  }: { readonly minimumDevices: number; readonly deadlinePassed: boolean },
): RoundDecision {
  const phases = [...state.lanes];
  const accepted = phases
    .filter(([, phase]) => phase === "delivered")
    .map(([deviceId]) => deviceId)
    .sort();
  const waiting = phases.some(([, phase]) => phase === "open");
  if (waiting && !deadlinePassed) return { kind: "wait" };
  if (accepted.length >= minimumDevices) return { kind: "close", accepted };
  if (!deadlinePassed && phases.length < minimumDevices) return { kind: "wait" };
  const reason = `${accepted.length} of at least ${minimumDevices} devices delivered`;
  return deadlinePassed || phases.length > 0 ? { kind: "reopen", reason } : { kind: "wait" };
}
