// A task as both ends know it: what is learned, from which base model, with which settings. The
// coordinator parses it from YAML (`apps/coordinator`) and announces it; foreign copies are parsed again here.
import { createHash } from "node:crypto";
import { z } from "zod";
import { budgetSchema } from "../devices/index.ts";
import { executionModes, type ModelConfig } from "../runtime/index.ts";
import { aggregationOptions } from "./aggregation/options.ts";
import { cohortOptions } from "./cohort.ts";
import { protocolErrors } from "./errors.ts";
import { contradictionOf } from "./exclusions.ts";
import { fullOptions } from "./full/options.ts";
import { kdOptions } from "./kd/options.ts";
import { modelConfigSchema } from "./model-config.ts";
import { assignmentOptions } from "./overrides.ts";
import { splitOptions } from "./split/options.ts";
import { asynchronousOptions } from "./update-buffer.ts";

/** Ids become topics, file names and HTML. */
export const idPattern = /^[A-Za-z0-9_-]{1,64}$/;

const positiveInt = z.int().positive();

/** How a model is adapted. */
export const adapterSchema = z.strictObject({
  rank: z.int().min(1).max(256),
  alpha: z.number().positive(),
  targets: z.array(z.string().min(1)).min(1),
  /** Probability that training drops an input of an adapter. */
  dropout: z.number().min(0).max(0.9).default(0),
  /** Scale alpha / sqrt(rank) in place of alpha / rank. */
  rsLora: z.boolean().default(false),
});

/** Schema of the parts of a task that a person writes; every field with a default may be left out. */
export const taskSchema = z.strictObject({
  name: z.string().regex(idPattern),
  seed: z.int().nonnegative().default(1),
  head: z.discriminatedUnion("kind", [
    z.strictObject({
      kind: z.literal("classification"),
      /** Ordered: the class index is the position here. */
      labels: z.array(z.string().min(1).max(200)).min(2).max(1000),
    }),
    /** The base model's own head: texts are continued, there are no labels. */
    z.strictObject({ kind: z.literal("lm") }),
  ]),
  adapter: adapterSchema
    .extend({
      /** Lower ranks that a device may be given where its memory or its link does not carry `rank`. */
      ranks: z.array(z.int().min(1).max(256)).min(1).exactOptional(),
    })
    .default({
      rank: 8,
      alpha: 16,
      targets: ["c_attn"],
      dropout: 0,
      rsLora: false,
    }),
  training: z
    .strictObject({
      rounds: positiveInt.default(4),
      /** Optimizer steps of each device in a round (E). */
      localSteps: positiveInt.default(25),
      batchSize: z.int().min(1).max(1024).default(16),
      /** Tokens an example is cut or padded to. */
      sequenceLength: z.int().min(8).max(4096).default(96),
      learningRate: z.number().positive().default(3e-3),
      /** Share of the first rate that the last global step still has; linear in between. */
      finalRateFraction: z.number().min(0).max(1).default(0.1),
      weightDecay: z.number().min(0).default(0),
      /** Whether AdamW's moments start from zero in each round or go on from the device's last one. */
      moments: z.enum(["fresh", "keep"]).default("fresh"),
      /** Largest global gradient norm; steps above it are scaled down. */
      maxGradientNorm: z.number().positive().default(1),
    })
    .prefault({}),
  /** How devices with a whole model may execute it. */
  execution: z
    .strictObject({
      /** Execution modes, the preferred one first; the first that fits a device's memory is its own. */
      modes: z.array(z.enum(executionModes)).min(1).default(["whole-float32"]),
      /** Most training memory of any device, above its idle process. */
      memoryBytes: positiveInt.optional(),
    })
    .prefault({}),
  cohort: cohortOptions,
  /** Present: devices do not wait for each other (`full` only). */
  asynchronous: asynchronousOptions,
  /** Whether labels may leave a device; split of a classification task needs it. */
  labelsMayLeave: z.boolean().default(false),
  selection: z
    .strictObject({
      order: z.array(z.string().regex(idPattern)).min(1).default(["full", "split", "kd"]),
      /** The most that a round may take of any device; the stricter of these and the device's own budget counts. */
      limits: budgetSchema.prefault({}),
      /** Whether assignments are looked at again between rounds, with what the rounds showed. */
      revisit: z.boolean().default(true),
      /** Rounds that must have gone well before a device moves to what the task prefers, or what was struck is tried again. */
      goodRounds: positiveInt.default(3),
    })
    .prefault({}),
  /** What the broker between coordinator and devices carries. */
  transport: z
    .strictObject({
      /** Largest MQTT packet; brokers drop a connection that sends a larger one. */
      maxPacketBytes: z.int().min(8192).max(268_435_455).default(131_072),
    })
    .prefault({}),
  assignments: assignmentOptions,
  aggregation: aggregationOptions,
  full: fullOptions,
  kd: kdOptions,
  split: splitOptions,
});

/** The settings a person writes, defaults filled in. */
export type TaskSettings = z.output<typeof taskSchema>;

/** What a device must hold to take part, so that both ends compute with the same numbers. */
export interface ModelManifest {
  /** sha256 over the configuration and every tensor's own sha256, in name order. */
  readonly modelSha256: string;
  readonly tokenizerSha256: string;
  /** The fields of the model's configuration that shape its graphs. */
  readonly config: ModelConfig;
  /** Texts in the public set and sha256 of its CSV; absent when the task has none. */
  readonly publicSet?: { readonly sha256: string; readonly size: number; readonly bytes: number };
}

/** A task with everything resolved: what travels to the devices. */
export interface Task extends TaskSettings {
  readonly manifest: ModelManifest;
}

/** Checks a task that came over the wire, settings that exclude each other too; throws `TASK_INVALID` naming the field. */
export function parseTask(input: unknown): Task {
  const parsed = wireSchema.safeParse(input);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalidTask(issue?.path.join(".") || "task", issue?.message ?? "is not valid");
  }
  const contradiction = contradictionOf(parsed.data);
  if (contradiction) throw invalidTask(contradiction.field, contradiction.problem);
  return parsed.data as Task;
}

/** sha256 of everything that shapes a task's numbers; equal for equal tasks at both ends. */
export function taskFingerprint(task: Task): string {
  return createHash("sha256").update(canonicalJson(task)).digest("hex");
}

function invalidTask(field: string, problem: string): Error {
  return protocolErrors.error("TASK_INVALID", `the announced task: ${field}: ${problem}`, {
    hint: "Install the same version of Trifold on the coordinator and on the device.",
  });
}

/** JSON with sorted keys: the wire does not keep their order. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const size = z
  .int()
  .positive()
  .max(2 ** 31);
const wireSchema = taskSchema.extend({
  manifest: z.strictObject({
    modelSha256: sha256,
    tokenizerSha256: sha256,
    config: modelConfigSchema,
    publicSet: z
      .strictObject({
        sha256,
        size,
        bytes: z
          .int()
          .positive()
          .max(2 ** 26),
      })
      .optional(),
  }),
});
