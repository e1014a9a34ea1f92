// Settings of `full` in a task.
import { z } from "zod";
import { encodingNames } from "../encoding/encoded.ts";

/** How adapters and their updates travel; also the front of `split`. */
export const fullOptions = z
  .strictObject({
    encoding: z.enum(encodingNames).default("bf16"),
    /** Share of each tensor's values that `topk` sends. */
    keepFraction: z.number().min(0.001).max(1).default(0.1),
    /** Whether what the encoding loses of a change is added to the next; when left out, for encodings coarser than bf16. */
    errorFeedback: z.boolean().optional(),
  })
  .prefault({});
