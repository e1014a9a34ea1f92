// What a task makes of a step's gradients before they are clipped; the same for a whole model, a front and a tail.
import {
  type AdjustGradients,
  type Float32Tensor,
  float32,
  type Parameters,
} from "../runtime/index.ts";
import { trainedPart } from "./plan.ts";
import type { TaskSettings } from "./task.ts";

/**
 * Gradients of what the method does not train (A of `ffa`) are left out.
 *
 * FedProx (Li et al. 2020, arXiv 1812.06127, equation 2): the gradient of mu/2 * |theta - theta_t|^2, which is mu * (theta - theta_t),
 * is added to the loss's. `center` is theta_t; without it or mu nothing is added.
 */
export function gradientRule(task: TaskSettings, center?: Parameters): AdjustGradients {
  const { proximal } = task.full;
  if (proximal === 0 || !center) return (gradients) => trainedPart(task, gradients);
  return (gradients, parameters) =>
    new Map(
      [...trainedPart(task, gradients)].map(([name, { shape, data }]) => {
        const at = (parameters.get(name) as Float32Tensor).data;
        const from = (center.get(name) as Float32Tensor).data;
        const pull = (i: number) => proximal * ((at[i] as number) - (from[i] as number));
        return [
          name,
          float32(
            shape,
            data.map((value, i) => value + pull(i)),
          ),
        ];
      }),
    );
}
