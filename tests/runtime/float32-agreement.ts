// How close float32 must come to float64.
import type { TensorBundle } from "../../runtime/tensor.ts";

/**
 * Throws unless every output of a small float32 graph is what float64 gives.
 *
 * Each operator is off by a float32 rounding or two (1.2e-7) of the largest number so far, at most some twenty in a
 * row: 2e-6. A hundred times less than a wrong constant or index would show; thousands of random graphs kept 4e-7.
 */
export function checkFloat32(actual: TensorBundle, expected: TensorBundle): void {
  let largest = 1;
  for (const [name, { data }] of expected) {
    const numbers = Array.from(data, Number);
    largest = Math.max(largest, ...numbers.map(Math.abs));
    const tolerance = 2e-6 * largest;
    const got = actual.get(name)?.data ?? [];
    const wrong = numbers.findIndex((value, i) => !(Math.abs(Number(got[i]) - value) <= tolerance));
    if (wrong >= 0) throw new Error(`${name}[${wrong}] is ${got[wrong]}, not ${numbers[wrong]}`);
  }
}
