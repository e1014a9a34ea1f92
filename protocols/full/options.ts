// Settings of `full` in a task.
import { z } from "zod";
import { encodingNames } from "../encoding/encoded.ts";

/** How adapters and their updates travel; also the front of `split`. */
export const fullOptions = z
  .strictObject({
    /** What full devices send: what E local steps changed, or the mean gradient at theta_t, as a step of the task's rate. */
    mode: z.enum(["parameters", "gradients"]).default("parameters"),
    /** Batches of that mean. */
    gradientBatches: z.int().positive().default(1),
    /** FedProx's mu: how strongly local steps of full and split devices are drawn back to theta_t; 0 for not at all. */
    proximal: z.number().min(0).default(0),
    encoding: z.enum(encodingNames).default("bf16"),
    /** Share of each tensor's values that `topk` sends. */
    keepFraction: z.number().min(0.001).max(1).default(0.1),
    /** Whether what the encoding loses of a change is added to the next; when left out, for encodings coarser than bf16. */
    errorFeedback: z.boolean().optional(),
  })
  .prefault({});
