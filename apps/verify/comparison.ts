// How far a result may be from a reference, and how far it is.
import type { Float32Tensor } from "../../runtime/index.ts";

/** One tensor held against its reference. */
export interface Comparison {
  /** `loss`, `logits` or `grad.<tensor name>`. */
  readonly name: string;
  /** Largest absolute difference of an element; not finite when an element is not. */
  readonly error: number;
  readonly bound: number;
  readonly ok: boolean;
}

/**
 * Compares element by element; `counts` leaves elements out. The bound is 1e-4 + 1e-3 * max|expected|: float32
 * sums of a few thousand products lose about three of their seven digits.
 */
export function compareTensors(
  name: string,
  actual: Float32Tensor,
  expected: Float32Tensor,
  counts: (element: number) => boolean = () => true,
): Comparison {
  let error = 0;
  let largest = 0;
  expected.data.forEach((value, i) => {
    if (!counts(i)) return;
    const difference = Math.abs((actual.data[i] as number) - value);
    // NaN loses every comparison with `>`: it must win here.
    if (!(difference <= error)) error = difference;
    largest = Math.max(largest, Math.abs(value));
  });
  const bound = 1e-4 + 1e-3 * largest;
  return { name, error, bound, ok: error <= bound };
}
