// How far a text's activations may move before they travel again.

/** A bound on the relative change of a row, |now - sent| / |now|. */
export interface Threshold {
  readonly value: number;
  /** Tells the loss of a step. */
  note(loss: number): void;
}

/** A bound that stays. */
export function fixedThreshold(value: number): Threshold {
  return { value, note: () => {} };
}

/**
 * A bound that follows the loss: strict at first; after each epoch half as wide again when the epoch's mean loss fell,
 * and half as wide when it rose, for then training may be led by what is out of date. Equal losses give equal bounds.
 */
export function adaptiveThreshold(stepsPerEpoch: number): Threshold {
  let value = bounds.strictest;
  let steps = 0;
  let sum = 0;
  let last: number | undefined;
  return {
    get value() {
      return value;
    },
    note: (loss) => {
      steps += 1;
      sum += loss;
      if (steps < stepsPerEpoch) return;
      const mean = sum / steps;
      const isWorse = last !== undefined && mean > last;
      const wanted = isWorse ? value * 0.5 : value * 1.5;
      value = Math.min(bounds.widest, Math.max(bounds.strictest, wanted));
      [last, steps, sum] = [mean, 0, 0];
    },
  };
}

// Up to 0.15 ten epochs of the embedded model learned less.
const bounds = { strictest: 0.02, widest: 0.06 };
