// Settings of `split` in a task.
import { z } from "zod";
import { denseEncodingNames, encodingNames } from "../encoding/encoded.ts";

/** Where the model is cut, and how what crosses the cut travels. */
export const splitOptions = z
  .strictObject({
    /** Blocks on the device; "auto" takes the one that needs the least memory. */
    cutLayer: z.union([z.literal("auto"), z.int().positive()]).default("auto"),
    /** Whether the device holds the end of the model and the loss as well, so that labels never leave it. */
    uShape: z.boolean().default(false),
    /** Last blocks on a device with a U-shape, beside the final norm and the head. */
    tailLayers: z.int().nonnegative().default(0),
    /** Whether each device trains a copy of the coordinator's part, or those of one cut train the same one in turn. */
    tails: z.enum(["per-device", "shared"]).default("per-device"),
    /** How long the turn of a device holds the others up, once, where they share a part. */
    patienceSeconds: z.number().positive().default(10),
    /** Whether a device takes the next step's forward pass while the answer to this one travels, one step behind its parameters. */
    pipeline: z.boolean().default(false),
    /** Not `topk`: each step's activations are others, so what one drops the next cannot bring. */
    activations: z.enum(denseEncodingNames).default("int8"),
    gradients: z.enum(encodingNames).default("bf16"),
    /** Share of a gradient's values that `topk` sends. */
    keepFraction: z.number().min(0.001).max(1).default(0.1),
    /** Share of each channel's values, the largest, that `int8` sends apart in bf16, both ways. */
    outliers: z.number().min(0).max(0.25).default(0),
    /** Whether what the encoding loses of a text's gradient is added when that text comes again. */
    errorFeedback: z.boolean().default(false),
    /** Most bytes that an end keeps of each of these for a device: rows for reuse, what is owed of gradients. */
    cacheBytes: z
      .int()
      .positive()
      .default(2 ** 26),
    /** Sending only the texts whose activations moved since they were last sent. */
    reuse: z
      .strictObject({
        /** Relative change up to which a text's activations stay at home; "adaptive" follows the loss. */
        threshold: z
          .union([z.enum(["off", "adaptive"]), z.number().positive().max(1)])
          .default("off"),
        /** How the change of a text that moved is narrowed; `topk` keeps as many values as the threshold asks for. */
        changes: z.enum(encodingNames).default("topk"),
      })
      .prefault({}),
  })
  .prefault({});
