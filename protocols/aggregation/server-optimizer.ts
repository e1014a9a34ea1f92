// What the coordinator makes of a round's combined update (Reddi et al. 2021, Adaptive Federated Optimization, arXiv
// 2003.00295, algorithm 2; FedAvgM: Hsu et al. 2019, arXiv 1909.06335): the update is a pseudo-gradient, pointing downhill.
import { type Float32Tensor, float32, type Parameters } from "../../runtime/index.ts";
import { forEachLeading, resized } from "./factors.ts";
import type { ServerOptimizerOptions } from "./options.ts";

/** An update to apply, and what to go on from in the next round. */
export interface ServerStep {
  readonly update: Parameters;
  /** One bundle, to be saved beside theta: `momentum/<name>` and `variance/<name>`, float32; empty for fedavg. */
  readonly state: Parameters;
}

/**
 * One step of the server's optimizer from the combined update of a round and the last state (empty at the start).
 *
 * fedavg: rate * delta, the very delta at rate 1. fedavgm: v = momentum * v + delta, rate * v. fedadam and fedyogi: rate * m / (sqrt(v) +
 * epsilon) with m = momentum * m + (1 - momentum) * delta and v from epsilon^2; without bias correction, as in the paper.
 * A tensor that nobody carried gets no update and its state stays; so do the ranks of a factor beyond those that somebody carried.
 */
export function serverStep(
  options: ServerOptimizerOptions,
  combined: Parameters,
  state: Parameters = new Map(),
): ServerStep {
  const rate = serverRate(options);
  if (options.kind === "fedavg" && rate === 1) return { update: combined, state };
  const next = new Map(state);
  const update = new Map<string, Float32Tensor>();
  for (const [name, delta] of combined) {
    const moments = momentsOf(options, state, name, delta.shape);
    update.set(name, stepOf({ ...options, rate }, delta, moments));
    for (const [moment, tensor] of Object.entries(moments)) next.set(`${moment}/${name}`, tensor);
  }
  return { update, state: new Map([...next].sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/** The rate of the options or, when left out, its kind's: 1, or 0.01 where steps have the rate's own length. */
export function serverRate({ kind, rate }: ServerOptimizerOptions): number {
  return rate ?? rules[kind].rate;
}

type Kind = ServerOptimizerOptions["kind"];
type Moment = "momentum" | "variance";
type Moments = Readonly<Partial<Record<Moment, Float32Tensor>>>;
type RatedOptions = ServerOptimizerOptions & { readonly rate: number };

/** A kind of optimizer. */
interface Rule {
  /** When the task names none. */
  readonly rate: number;
  readonly moments: readonly Moment[];
  /** The change of one value, and its moments after it. */
  move(delta: number, before: Readonly<Record<Moment, number>>, options: RatedOptions): Move;
}

interface Move extends Readonly<Record<Moment, number>> {
  readonly change: number;
}

const rules: Readonly<Record<Kind, Rule>> = {
  fedavg: {
    rate: 1,
    moments: [],
    move: (delta, before, { rate }) => ({ ...before, change: rate * delta }),
  },
  fedavgm: {
    rate: 1,
    moments: ["momentum"],
    move: (delta, before, { rate, momentum: beta }) => {
      const momentum = beta * before.momentum + delta;
      return { ...before, momentum, change: rate * momentum };
    },
  },
  fedadam: adaptive((variance, square, beta2) => beta2 * variance + (1 - beta2) * square),
  // Zaheer et al. 2018: the variance moves by the square alone, so it falls no faster than it rises.
  fedyogi: adaptive(
    (variance, square, beta2) => variance - (1 - beta2) * square * Math.sign(variance - square),
  ),
};

function adaptive(nextVariance: (variance: number, square: number, beta2: number) => number): Rule {
  return {
    rate: 0.01,
    moments: ["momentum", "variance"],
    move: (delta, before, { rate, momentum: beta1, beta2, epsilon }) => {
      const momentum = beta1 * before.momentum + (1 - beta1) * delta;
      const variance = nextVariance(before.variance, delta * delta, beta2);
      return { momentum, variance, change: (rate * momentum) / (Math.sqrt(variance) + epsilon) };
    },
  };
}

/** Copies of a tensor's moments, as large as the update or larger; algorithm 2 starts the variance at epsilon^2. */
function momentsOf(
  { kind, epsilon }: ServerOptimizerOptions,
  state: Parameters,
  name: string,
  shape: readonly number[],
): Moments {
  const start = { momentum: 0, variance: epsilon ** 2 };
  const entries = rules[kind].moments.map((moment) => {
    const known = state.get(`${moment}/${name}`) ?? float32(shape.map(() => 0));
    const size = shape.map((length, axis) => Math.max(length, known.shape[axis] ?? 0));
    const { data } = resized(known, size, start[moment]);
    return [moment, float32(size, data.slice())] as const;
  });
  return Object.fromEntries(entries);
}

/** The update of one tensor; its moments move in place. */
function stepOf(
  options: RatedOptions,
  delta: Float32Tensor,
  { momentum, variance }: Moments,
): Float32Tensor {
  const { move } = rules[options.kind];
  const result = float32(delta.shape);
  const whole = momentum?.shape ?? delta.shape;
  forEachLeading(delta.shape, whole, (at, inWhole) => {
    const before = {
      momentum: momentum?.data[inWhole] ?? 0,
      variance: variance?.data[inWhole] ?? 0,
    };
    const after = move(delta.data[at] as number, before, options);
    result.data[at] = after.change;
    if (momentum) momentum.data[inWhole] = after.momentum;
    if (variance) variance.data[inWhole] = after.variance;
  });
  return result;
}
