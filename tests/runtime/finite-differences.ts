// Slopes of a weighted sum of a session's outputs, by central differences in float64.
import type { Session } from "../../runtime/session/engine.ts";
import type { Float64Tensor, Tensor, TensorBundle } from "../../runtime/tensor.ts";

/** A function of `feeds`: the sum of every weighted output times its weights, element by element. */
export interface WeightedSum {
  readonly session: Session;
  readonly feeds: TensorBundle;
  /** Weights by output name, each of the output's shape. */
  readonly weights: TensorBundle;
}

/**
 * The slope of the sum in each element of one float64 feed, of at most `most` spread over it.
 *
 * Central differences with step h = 1e-5 err by h^2 / 6 = 2e-11 of the third derivative, and by rounding:
 * 1e-16 / h = 1e-11 of an output, for outputs are subtracted before they are summed.
 */
export async function slopes(
  sum: WeightedSum,
  name: string,
  most = Number.POSITIVE_INFINITY,
): Promise<ReadonlyMap<number, number>> {
  const { shape, data } = sum.feeds.get(name) as Float64Tensor;
  const found = new Map<number, number>();
  const stride = Math.ceil(data.length / most) || 1;
  for (let at = 0; at < data.length; at += stride) {
    const here = data[at] as number;
    // Steps around 1e9 would be rounded away.
    const step = 1e-5 * Math.max(1, Math.abs(here));
    const moved = (by: number) => {
      const tensor: Tensor = { dtype: "float64", shape, data: data.with(at, here + by) };
      return sum.session.run(new Map([...sum.feeds, [name, tensor]]), [...sum.weights.keys()]);
    };
    const difference = weighedDifference(await moved(step), await moved(-step), sum.weights);
    found.set(at, difference / (2 * step));
  }
  return found;
}

/** A float64 copy of a float32 tensor, as the interpreter takes it; whole numbers as they are. */
export function inFloat64(tensor: Tensor): Tensor {
  if (tensor.dtype !== "float32") return tensor;
  return { dtype: "float64", shape: tensor.shape, data: Float64Array.from(tensor.data) };
}

function weighedDifference(above: TensorBundle, below: TensorBundle, weights: TensorBundle) {
  let total = 0;
  for (const [name, { data }] of weights) {
    const [high, low] = [above.get(name)?.data ?? [], below.get(name)?.data ?? []];
    for (const [i, weight] of data.entries()) {
      total += Number(weight) * (Number(high[i]) - Number(low[i]));
    }
  }
  return total;
}
