// What travels in `split`: activations up, the gradient at the cut down, in a U-shape the middle's states down and their
// gradient up between them; and the squared norms that make clipping equal to an uncut model's.
import { z } from "zod";
import { catchUpFields, globalFields } from "../global-model.ts";
import type { PayloadOf } from "../payload.ts";
import { contributionFields } from "../weight.ts";

/** Squared L2 norm of each gradient tensor by parameter name. */
const squares = z.record(z.string().max(200), z.number().nonnegative());
const lengths = z.array(z.int().nonnegative()).min(1).max(1024);
const step = z.int().nonnegative();
/** Number of each text among the device's. */
const texts = z
  .array(
    z
      .int()
      .nonnegative()
      .max(2 ** 31),
  )
  .max(1024)
  .optional();
/** How each row travels (`rowModes`), to an end whose memory has this digest, and the width of a row. */
const reuse = z
  .strictObject({
    memory: z.string().max(64),
    modes: z.array(z.int().min(0).max(2)).max(1024),
    hidden: z.int().positive(),
  })
  .optional();

export const splitUpKinds = {
  /** A request for the whole parameters of the device's part. */
  catchUp: catchUpFields,
  /** One training step; tensor `activations` [tokens, hidden], with reuse `changes` as well. `squares` are the device's of the step before. A U-shape sends no labels. */
  activations: z.strictObject({
    step,
    lengths,
    labels: z.array(z.int()).max(1024).optional(),
    texts,
    reuse,
    squares,
  }),
  /** Tensor `gradient` at what the middle gave for this step's activations. */
  gradient: z.strictObject({ step }),
  /** Hold-out texts; tensor `activations`. */
  evaluate: z.strictObject({ lengths, texts, reuse, squares }),
  /** The update of the device's parameters, the end of the round. */
  update: z.strictObject({ ...contributionFields, squares }),
};
export const splitDownKinds = {
  /** The parameters of the device's part, and the digest of the rows that the coordinator remembers of it. */
  front: z.strictObject({ theta: globalFields, memory: z.string().max(64) }),
  /** Tensor `gradient` [tokens, hidden]; `squares` are the coordinator's of this step. A U-shape knows no loss here. */
  gradient: z.strictObject({ step, loss: z.number().optional(), squares }),
  /** Tensor `states`: what the middle of a U-shape gives, for training and for the hold-out. */
  states: z.strictObject({}),
  /** Tensor `logits` [batch, classes]. */
  logits: z.strictObject({}),
};

export type SplitUp = PayloadOf<typeof splitUpKinds>;
export type SplitDown = PayloadOf<typeof splitDownKinds>;

/** A message of one kind. */
export type Up<Kind extends SplitUp["kind"]> = Extract<SplitUp, { kind: Kind }>;
export type Down<Kind extends SplitDown["kind"]> = Extract<SplitDown, { kind: Kind }>;
