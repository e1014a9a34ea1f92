// How far a text's activations may move before they travel again.

/** A bound on the relative change of a row, |now - sent| / |now|. */
export interface Threshold {
  readonly value: number;
  /** Tells the loss of a step. */
  note(loss: number): void;
  /** What another lane goes on from. */
  readonly state: Readonly<Record<string, number>>;
}

/** A bound that stays. */
export function fixedThreshold(value: number): Threshold {
  return { value, note: () => {}, state: {} };
}

/**
 * A bound that follows the loss: strict at first; after each epoch half as wide again when the epoch's mean loss fell,
 * and half as wide when it rose, for then training may be led by what is out of date. Equal losses give equal bounds.
 * `from` is the state that an earlier one was left in.
 */
export function adaptiveThreshold(
  stepsPerEpoch: number,
  from: Readonly<Record<string, number>> = {},
): Threshold {
  let { threshold: value = bounds.strictest, epochSteps = 0, epochLoss = 0 } = from;
  let last = from["lastEpochLoss"];
  return {
    get value() {
      return value;
    },
    get state() {
      const ended = last === undefined ? {} : { lastEpochLoss: last };
      return { threshold: value, epochSteps, epochLoss, ...ended };
    },
    note: (loss) => {
      epochSteps += 1;
      epochLoss += loss;
      if (epochSteps < stepsPerEpoch) return;
      const mean = epochLoss / epochSteps;
      const isWorse = last !== undefined && mean > last;
      const wanted = isWorse ? value * 0.5 : value * 1.5;
      value = Math.min(bounds.widest, Math.max(bounds.strictest, wanted));
      [last, epochSteps, epochLoss] = [mean, 0, 0];
    },
  };
}

// Up to 0.15 ten epochs of the embedded model learned less.
const bounds = { strictest: 0.02, widest: 0.06 };
