// What coordinator and device say to each other beside the lanes: one schema for each message, used by both ends.
// The coordinator asks `describe`, `prepare`, `provide`, `refused`, `start`, `close` and `finish`; the device asks `report`,
// `failed`, `public-set`, `model-parts` and `model-piece`.
import { z } from "zod";
import type { Envelope } from "../broker/index.ts";
import { encodingNames, idPattern, ownModelSchema, protocolErrors } from "../protocols/index.ts";
import { executionModes } from "../runtime/index.ts";

const count = z.number().nonnegative();

/** Reply to `describe`: what the device is and what its owner allows. Profile and budget have parsers of their own. */
export const descriptionSchema = z.strictObject({
  profile: z.unknown(),
  budget: z.unknown(),
  /** What its owner counts it among. */
  group: z.string().regex(idPattern).exactOptional(),
  /** Version of each protocol the device has. */
  protocols: z.record(z.string().max(64), z.int().positive()),
});

/** Request `prepare`: the task, which has a parser of its own. */
export const prepareSchema = z.strictObject({ task: z.unknown() });

/** Reply to `prepare`. */
export const readySchema = z.strictObject({
  examples: z.int().positive(),
  holdOut: z.int().nonnegative(),
  /** The task as the device understood it. */
  fingerprint: z.string().length(64),
  /** Whether it holds the task's model; one that does not may have its own. */
  hasModel: z.boolean(),
  /** Present where the device lacks the task's model and fetches what its assignment needs when it is asked to. */
  fetchesModel: z.literal(true).exactOptional(),
  ownModel: ownModelSchema.exactOptional(),
  /** A lane that a former process of the device finished, and that this one delivers. */
  delivers: z
    .strictObject({
      round: z.int().positive(),
      attempt: z.int().positive(),
      lane: z.int().positive(),
    })
    .exactOptional(),
});

/** Most bytes of a model in one message. */
export const largestPieceBytes = 2 ** 21;

/** Largest file of a tokenizer. */
const largestTokenizerBytes = 2 ** 26;

/** What a tokenizer is read from; the second may be absent. */
export const tokenizerFiles = ["tokenizer.json", "tokenizer_config.json"] as const;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const fileSchema = z.strictObject({
  sha256,
  bytes: z.int().positive().max(largestTokenizerBytes),
});

/** Blob `parts` of the reply to `model-parts`, as JSON: what the task's model consists of. Shapes follow from its configuration. */
export const modelPartsSchema = z.strictObject({
  /** sha256 of each tensor's little-endian float32 values; those of the manifest's model, which the device checks. */
  tensors: z.record(z.string().min(1).max(200), sha256),
  tokenizer: z.strictObject({
    "tokenizer.json": fileSchema,
    "tokenizer_config.json": fileSchema.exactOptional(),
  }),
});

/** Request `model-piece`: bytes of a tensor or a tokenizer file; the reply has exactly those as blob `bytes`. */
export const modelPieceSchema = z.strictObject({
  sha256,
  offsetBytes: z.int().nonnegative(),
  lengthBytes: z.int().positive().max(largestPieceBytes),
});

/** Request `provide`: what the device is to fetch of the model for, before it takes part. */
export const provideSchema = z.strictObject({
  protocol: z.string(),
  protocolVersion: z.int(),
  cutLayer: z.int().positive().exactOptional(),
});

/** Request `refused`: why the coordinator cannot use the device, for the device's own log. */
export const refusedSchema = z.strictObject({
  code: z.string().max(100),
  message: z.string().max(5000),
  hint: z.string().max(5000).optional(),
});

/** Request `start`: round, attempt and lane are the envelope's; tensors are the first message's. */
export const startSchema = z.strictObject({
  protocol: z.string(),
  protocolVersion: z.int(),
  cutLayer: z.int().positive().exactOptional(),
  mode: z.enum(executionModes).exactOptional(),
  rank: z.int().positive().exactOptional(),
  encoding: z.enum(encodingNames).exactOptional(),
  allowance: z
    .strictObject({ uplinkBytes: z.int().nonnegative(), downlinkBytes: z.int().nonnegative() })
    .exactOptional(),
  reason: z.string(),
  globalStep: z.int().nonnegative(),
  /** The device's last lane that was folded into the global model; 0 before the first. */
  acceptedLane: z.int().nonnegative(),
  /** The device's last lane, where its update was too stale to be folded in. */
  dropped: z
    .strictObject({ lane: z.int().positive(), staleness: z.int().positive() })
    .exactOptional(),
  /** The device's last accepted round was done in another way: what belongs to that one alone is dropped. */
  isReassigned: z.boolean(),
  payload: z.strictObject({ kind: z.string(), fields: z.record(z.string(), z.unknown()) }),
});

/** What a device hears beside its start. */
export type StartNews = Pick<z.output<typeof startSchema>, "dropped">;

/** Request `close`: a round is over. */
export const closeSchema = z.strictObject({ acceptedLane: z.int().nonnegative() });

/** Request `report`: what a device made of its round. */
export const reportSchema = z.strictObject({
  examples: z.int().positive(),
  examplesSeen: z.int().nonnegative(),
  steps: z.int().nonnegative(),
  loss: z.number(),
  accuracy: z.number().min(0).max(1).optional(),
  perplexity: z.number().min(1).optional(),
  flops: count,
  trainSeconds: count,
  /** Highest resident memory of the round above the idle process. */
  peakMemoryBytes: z.number(),
  idleMemoryBytes: count,
  /** MQTT PUBLISH packets of the round, headers and repeats included. */
  uplinkBytes: count,
  downlinkBytes: count,
  /** The same messages in float32, neither narrowed nor padded. */
  rawUplinkBytes: count,
  rawDownlinkBytes: count,
  /** Fetched once and not counted above: parts of the model, its tokenizer, the public set. */
  provisioningBytes: count,
  /** Of the bytes sent, those sent before. */
  repeatedBytes: count,
  /** The board after the round, where it is measured and not declared. */
  state: z
    .strictObject({
      availableBytes: count.exactOptional(),
      temperatureCelsius: z.number().min(-60).max(200).exactOptional(),
      throttled: z.boolean().exactOptional(),
      uplinkBitsPerSecond: z.number().positive().exactOptional(),
    })
    .exactOptional(),
});

/** What a device reports at the end of its round. */
export type DeviceRoundReport = z.output<typeof reportSchema>;

/** Request `failed`: the device gave the round up. */
export const failedSchema = z.strictObject({
  code: z.string().max(100),
  message: z.string().max(4000),
});

/** Checks the fields of a message; throws `PROTOCOL_PAYLOAD_INVALID` naming message and field. */
export function readFields<T>(
  envelope: Pick<Envelope, "kind" | "fields">,
  schema: z.ZodType<T>,
): T {
  const parsed = schema.safeParse(envelope.fields);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.join(".") || "fields";
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `"${envelope.kind}": ${where}: ${issue?.message}`,
  );
}
