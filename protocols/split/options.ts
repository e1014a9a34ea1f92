// Settings of `split` in a task.
import { z } from "zod";
import { encodingNames } from "../encoding/encoded.ts";

const encoding = z.enum(encodingNames);

/** Where the model is cut, and how what crosses the cut travels. */
export const splitOptions = z
  .strictObject({
    /** Blocks on the device; "auto" takes the one that needs the least memory. */
    cutLayer: z.union([z.literal("auto"), z.int().positive()]).default("auto"),
    /** Whether the device holds the end of the model and the loss as well, so that labels never leave it. */
    uShape: z.boolean().default(false),
    /** Last blocks on a device with a U-shape, beside the final norm and the head. */
    tailLayers: z.int().nonnegative().default(0),
    activations: encoding.default("int8"),
    gradients: encoding.default("bf16"),
  })
  .prefault({});
