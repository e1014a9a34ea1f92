// Settings of `kd` in a task.
import { z } from "zod";
import { aggregations } from "./aggregation.ts";
import { logitEncodings } from "./value-codes.ts";

/** What travels of the logits, and how both ends distil them. */
export const kdOptions = z
  .strictObject({
    /** Public texts of a round, a slice that moves on from round to round; all when left out. */
    sliceSize: z.int().positive().optional(),
    /** How the coordinator makes one distribution of the devices' and the global model's own. */
    aggregation: z.enum(aggregations).default("mean"),
    /** Largest logits kept of a row; the rest travel as one. Or as many as `keptMass` and the device's link ask for. */
    topK: z.union([z.int().positive(), z.literal("adaptive")]).default(8),
    /** Adaptive: share of a row's probability, at the temperature, that the kept logits hold. */
    keptMass: z.number().min(0.01).max(1).default(0.7),
    /** Adaptive: most seconds that a round's logits may take on the device's link, each way. */
    linkSeconds: z.number().positive().default(10),
    encoding: z.enum(logitEncodings).default("bf16"),
    /** How the coordinator's logits travel; as `encoding` when left out. */
    encodingDown: z.enum(logitEncodings).optional(),
    temperature: z.number().positive().default(2),
    /** Distillation steps of the coordinator and of a device in each round. */
    distillationSteps: z.int().nonnegative().default(10),
    learningRate: z.number().positive().default(1e-3),
  })
  .prefault({});
