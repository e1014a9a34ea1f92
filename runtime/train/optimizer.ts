// AdamW (Loshchilov, Hutter 2019), SGD with momentum and clipping by global norm on plain typed arrays: for adapters this
// is faster than a graph, and the same bits come out whether a model is whole or cut.
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

/** Settings of SGD. */
export interface SgdSettings {
  /** Share of the direction before that a step keeps; 0.9 when left out. */
  readonly momentum?: number;
  /** Added to the gradient: weightDecay * parameter. */
  readonly weightDecay?: number;
}

/** An optimizer by name with its settings. */
export type OptimizerSettings =
  | ({ readonly kind: "adamw" } & AdamWSettings)
  | ({ readonly kind: "sgd" } & SgdSettings);

/** Names of the optimizers. */
export type OptimizerKind = OptimizerSettings["kind"];

/** What an optimizer remembers beside the parameters. */
export interface OptimizerState {
  /** Steps made so far. */
  readonly steps: number;
  /** By name of the moment (AdamW: `first`, `second`; SGD: `momentum`), each by parameter name. */
  readonly moments: ReadonlyMap<string, Parameters>;
}

/** An optimizer that owns its parameters and moments. */
export interface Optimizer {
  /** The current values; the same arrays are updated by `step`. */
  readonly parameters: Parameters;
  /** Applies one step in place. `scale` multiplies every gradient first (clipping). A parameter without a gradient stays as it is. */
  step(gradients: Parameters, options: { readonly rate: number; readonly scale?: number }): void;
  /** What another optimizer goes on from; its arrays are updated by `step` as well. */
  state(): OptimizerState;
}

/** Names of each optimizer's moments. */
export const momentNames: Readonly<Record<OptimizerKind, readonly string[]>> = {
  adamw: ["first", "second"],
  sgd: ["momentum"],
};

/** An optimizer over a copy of `initial`, its moments zero or copies of `state`'s. */
export function createOptimizer(
  settings: OptimizerSettings,
  initial: Parameters,
  state?: OptimizerState,
): Optimizer {
  return settings.kind === "sgd" ? sgd(initial, settings, state) : adamW(initial, settings, state);
}

/** AdamW over a copy of `initial`, moments zero or copies of `state`'s. */
export function adamW(
  initial: Parameters,
  settings: AdamWSettings = {},
  state?: OptimizerState,
): Optimizer {
  const {
    beta1 = 0.9,
    beta2 = 0.999,
    epsilon = 1e-8,
    weightDecay = 0,
    decays = () => true,
  } = settings;
  const parameters = copyOf(initial);
  const moments = momentsOf("adamw", initial, state);
  let steps = state?.steps ?? 0;
  return {
    parameters,
    state: () => ({ steps, moments }),
    step: (gradients, { rate, scale = 1 }) => {
      steps += 1;
      const correction1 = 1 - beta1 ** steps;
      const correction2 = Math.sqrt(1 - beta2 ** steps);
      for (const [name, { data: values }] of parameters) {
        const gradient = gradients.get(name)?.data;
        if (gradient === undefined) continue;
        const first = momentOf(moments, "first", name);
        const second = momentOf(moments, "second", name);
        const keep = decays(name) ? 1 - rate * weightDecay : 1;
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

/** SGD with momentum as PyTorch computes it (no dampening), over a copy of `initial`. */
export function sgd(
  initial: Parameters,
  { momentum = 0.9, weightDecay = 0 }: SgdSettings = {},
  state?: OptimizerState,
): Optimizer {
  const parameters = copyOf(initial);
  const moments = momentsOf("sgd", initial, state);
  let steps = state?.steps ?? 0;
  return {
    parameters,
    state: () => ({ steps, moments }),
    step: (gradients, { rate, scale = 1 }) => {
      steps += 1;
      for (const [name, { data: values }] of parameters) {
        const gradient = gradients.get(name)?.data;
        if (gradient === undefined) continue;
        const direction = momentOf(moments, "momentum", name);
        for (let i = 0; i < values.length; i++) {
          const value = values[i] as number;
          const g = (gradient[i] as number) * scale + weightDecay * value;
          const d = momentum * (direction[i] as number) + g;
          direction[i] = d;
          values[i] = value - rate * d;
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

function copyOf(tensors: Parameters): Parameters {
  return new Map(
    [...tensors].map(([name, { shape, data }]) => [name, float32(shape, data.slice())]),
  );
}

function momentsOf(
  kind: OptimizerKind,
  initial: Parameters,
  state: OptimizerState | undefined,
): ReadonlyMap<string, Parameters> {
  const zeros = () => new Map([...initial].map(([name, { shape }]) => [name, float32(shape)]));
  return new Map(
    momentNames[kind].map((moment) => {
      const known = state?.moments.get(moment);
      return [moment, known ? copyOf(known) : zeros()];
    }),
  );
}

function momentOf(
  moments: ReadonlyMap<string, Parameters>,
  moment: string,
  name: string,
): Float32Array {
  return dataOf(moments.get(moment) as Parameters, name);
}

function dataOf(tensors: Parameters, name: string): Float32Array {
  return (tensors.get(name) as Float32Tensor).data;
}
