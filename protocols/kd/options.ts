// Settings of `kd` in a task.
import { z } from "zod";
import { denseEncodingNames } from "../encoding/encoded.ts";

/** What travels of the logits, and how both ends distil them. */
export const kdOptions = z
  .strictObject({
    /** Largest logits kept per example; the rest travel as one log-sum-exp. */
    topK: z.int().positive().default(8),
    /** Not `topk`: `topK` already chooses the logits, and a zero in the place of one would be an opinion. */
    encoding: z.enum(denseEncodingNames).default("bf16"),
    temperature: z.number().positive().default(2),
    /** Distillation steps of the coordinator and of a device in each round. */
    distillationSteps: z.int().nonnegative().default(10),
    learningRate: z.number().positive().default(1e-3),
  })
  .prefault({});
