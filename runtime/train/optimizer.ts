// AdamW (Loshchilov, Hutter 2019) and clipping by global norm on plain typed arrays: for adapters this is
// faster than a graph, and the same bits come out whether a model is whole or cut.
import { type Float32Tensor, float32, type Parameters } from "../tensor.ts";

/** Settings of AdamW; the defaults are PyTorch's. */
export interface AdamWSettings {
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Decoupled: each step shrinks parameters by rate * weightDecay. */
  readonly weightDecay?: number;
  /** Whether a parameter decays; all do when left out. */
  readonly decays?: (name: string) => boolean;
}

/** An optimizer that owns its parameters and moments. */
export interface Optimizer {
  /** The current values; the same arrays are updated by `step`. */
  readonly parameters: Parameters;
  /** Applies one step in place. `scale` multiplies every gradient first (clipping). */
  step(gradients: Parameters, options: { readonly rate: number; readonly scale?: number }): void;
}

/** AdamW over a copy of `initial`, moments zero. */
export function adamW(initial: Parameters, settings: AdamWSettings = {}): Optimizer {
  const {
    beta1 = 0.9,
    beta2 = 0.999,
    epsilon = 1e-8,
    weightDecay = 0,
    decays = () => true,
  } = settings;
  const state = new Map(
    [...initial].map(([name, tensor]) => [
      name,
      {
        tensor: float32(tensor.shape, tensor.data.slice()),
        first: new Float32Array(tensor.data.length),
        second: new Float32Array(tensor.data.length),
      },
    ]),
  );
  const parameters = new Map([...state].map(([name, { tensor }]) => [name, tensor]));
  let steps = 0;
  return {
    parameters,
    step: (gradients, { rate, scale = 1 }) => {
      steps += 1;
      const correction1 = 1 - beta1 ** steps;
      const correction2 = Math.sqrt(1 - beta2 ** steps);
      for (const [name, { tensor, first, second }] of state) {
        const gradient = (gradients.get(name) as Float32Tensor).data;
        const keep = decays(name) ? 1 - rate * weightDecay : 1;
        const values = tensor.data;
        for (let i = 0; i < values.length; i++) {
          const g = (gradient[i] as number) * scale;
          const m = beta1 * (first[i] as number) + (1 - beta1) * g;
          const v = beta2 * (second[i] as number) + (1 - beta2) * g * g;
          first[i] = m;
          second[i] = v;
          const change = ((rate / correction1) * m) / (Math.sqrt(v) / correction2 + epsilon);
          values[i] = (values[i] as number) * keep - change;
        }
      }
    },
  };
}

/** Squared L2 norm of each tensor, summed in float64. */
export function squaredNorms(gradients: Parameters): ReadonlyMap<string, number> {
  return new Map(
    [...gradients].map(([name, { data }]) => {
      let sum = 0;
      for (let i = 0; i < data.length; i++) sum += (data[i] as number) * (data[i] as number);
      return [name, sum];
    }),
  );
}

/**
 * The factor that brings the global norm down to `maximum`, 1 below it. The squares are summed in name
 * order, so that two ends of a cut model, which exchange them, get the same factor to the last bit.
 */
export function clipScale(squares: ReadonlyMap<string, number>, maximum: number): number {
  let total = 0;
  for (const name of [...squares.keys()].sort()) total += squares.get(name) as number;
  const norm = Math.sqrt(total);
  return norm > maximum ? maximum / norm : 1;
}

/** Learning rate at a global step: straight from `rate` down to `rate * finalFraction` over `totalSteps`. */
export function linearRate(
  step: number,
  {
    rate,
    finalFraction,
    totalSteps,
  }: { readonly rate: number; readonly finalFraction: number; readonly totalSteps: number },
): number {
  const progress = Math.min(1, step / Math.max(1, totalSteps - 1));
  return rate * (1 - (1 - finalFraction) * progress);
}
