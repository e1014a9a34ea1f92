// Learning rates as pure functions of the global step: warm-up, then constant or falling.

/** How the rate goes on after the warm-up. */
export type ScheduleKind = "constant" | "linear" | "cosine";

/** A course of the learning rate. */
export interface Schedule {
  readonly kind: ScheduleKind;
  /** The largest rate. */
  readonly rate: number;
  /** Steps in which it rises: step n of them, from 0, has (n + 1) / warmUpSteps of it. */
  readonly warmUpSteps: number;
  readonly totalSteps: number;
  /** Share of the rate that the last step still has, where the rate falls. */
  readonly finalFraction: number;
}

/** Learning rate at a global step, counted from 0; steps behind the last have its rate. */
export function scheduledRate(schedule: Schedule, step: number): number {
  const { kind, rate, warmUpSteps, totalSteps, finalFraction } = schedule;
  if (step < warmUpSteps) return (rate * (step + 1)) / warmUpSteps;
  const falling = { rate, finalFraction, totalSteps: totalSteps - warmUpSteps };
  return courses[kind](step - warmUpSteps, falling);
}

/** Where a rate falls from, how far, and in how many steps. */
export interface FallingRate {
  readonly rate: number;
  readonly finalFraction: number;
  readonly totalSteps: number;
}

/** Learning rate at a global step: straight from `rate` down to `rate * finalFraction` over `totalSteps`. */
export function linearRate(step: number, { rate, finalFraction, totalSteps }: FallingRate): number {
  return rate * (1 - (1 - finalFraction) * progressOf(step, totalSteps));
}

/** Half a wave of the cosine (Loshchilov, Hutter 2017, SGDR without restarts). */
function cosineRate(step: number, { rate, finalFraction, totalSteps }: FallingRate): number {
  const height = (1 + Math.cos(Math.PI * progressOf(step, totalSteps))) / 2;
  return rate * (finalFraction + (1 - finalFraction) * height);
}

const courses: {
  readonly [K in ScheduleKind]: (step: number, falling: FallingRate) => number;
} = {
  constant: (_step, { rate }) => rate,
  linear: linearRate,
  cosine: cosineRate,
};

function progressOf(step: number, totalSteps: number): number {
  return Math.min(1, step / Math.max(1, totalSteps - 1));
}
