// Settings of `split` in a task.
import { z } from "zod";
import { encodingNames } from "../encoding/encoded.ts";

const encoding = z.enum(encodingNames);

/** Where the model is cut, and how what crosses the cut travels. */
export const splitOptions = z
  .strictObject({
    /** Blocks on the device; "auto" takes the one that needs the least memory. */
    cutLayer: z.union([z.literal("auto"), z.int().positive()]).default("auto"),
    activations: encoding.default("int8"),
    gradients: encoding.default("bf16"),
  })
  .prefault({});
