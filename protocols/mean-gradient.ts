// The mean gradient of some batches at one point: an optimizer for the training loop that adds up and does not move.
import {
  clipScale,
  type Float32Tensor,
  float32,
  type Optimizer,
  type Parameters,
  squaredNorms,
} from "../runtime/index.ts";
import { scaleBundle } from "./bundles.ts";

/** Gradients at `parameters`, added up in float64. */
export interface GradientSum extends Optimizer {
  /** Their mean over the steps, scaled down to a global norm of at most `maximumNorm`. */
  mean(maximumNorm: number): Parameters;
}

/** No gradient yet. */
export function gradientSum(parameters: Parameters): GradientSum {
  const sums = new Map<string, Float64Array>();
  let steps = 0;
  const meanOf = (sum: Float64Array) => Float32Array.from(sum, (value) => value / steps);
  return {
    parameters,
    state: () => ({ steps, moments: new Map() }),
    step: (gradients) => {
      steps += 1;
      for (const [name, { data }] of gradients) {
        const sum = sums.get(name) ?? new Float64Array(data.length);
        for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (data[i] as number);
        sums.set(name, sum);
      }
    },
    mean: (maximumNorm) => {
      const mean = new Map(
        [...sums].map(([name, sum]) => {
          const { shape } = parameters.get(name) as Float32Tensor;
          return [name, float32(shape, meanOf(sum))] as const;
        }),
      );
      return scaleBundle(mean, clipScale(squaredNorms(mean), maximumNorm));
    },
  };
}
