// What travels in `split`: activations and labels up, the gradient at the cut down, and with both the
// squared norms that make clipping equal to an uncut model's.
import { z } from "zod";
import { catchUpFields, globalFields } from "../global-model.ts";
import type { PayloadOf } from "../payload.ts";
import { contributionFields } from "../weight.ts";

/** Squared L2 norm of each gradient tensor by parameter name. */
const squares = z.record(z.string().max(200), z.number().nonnegative());
const lengths = z.array(z.int().nonnegative()).min(1).max(1024);

export const splitUpKinds = {
  /** A request for the front's whole parameters. */
  catchUp: catchUpFields,
  /** One training step; tensor `activations` [batch, seq, hidden]. `squares` are those of the step before. */
  activations: z.strictObject({
    step: z.int().nonnegative(),
    lengths,
    labels: z.array(z.int()).max(1024),
    squares,
  }),
  /** Hold-out texts; tensor `activations`. */
  evaluate: z.strictObject({ lengths, squares }),
  /** The front's update, the end of the round. */
  update: z.strictObject({ ...contributionFields, squares }),
};
export const splitDownKinds = {
  /** The front's parameters: the start, their change or the whole of them. */
  front: globalFields,
  /** Tensor `gradient` [batch, seq, hidden]; `squares` are the tail's of this step. */
  gradient: z.strictObject({ step: z.int().nonnegative(), loss: z.number(), squares }),
  /** Tensor `logits` [batch, classes]. */
  logits: z.strictObject({}),
};

export type SplitUp = PayloadOf<typeof splitUpKinds>;
export type SplitDown = PayloadOf<typeof splitDownKinds>;
