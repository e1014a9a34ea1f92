// Every message of the wire beside presence: who says it, what it carries, and what it is answered with. The schemas are
// those that both ends check foreign messages with.
import { z } from "zod";
import {
  closeSchema,
  descriptionSchema,
  failedSchema,
  modelPieceSchema,
  prepareSchema,
  provideSchema,
  readySchema,
  refusedSchema,
  reportSchema,
  startSchema,
} from "../apps/control-messages.ts";
import { laneReplyFields, laneRequestFields } from "../broker/index.ts";
import {
  fullDownKinds,
  fullUpKinds,
  type KindSchemas,
  kdDownKinds,
  kdUpKinds,
  splitDownKinds,
  splitUpKinds,
} from "../protocols/index.ts";

/** An envelope's kind and its fields. */
export interface WireMessage {
  readonly kind: string;
  readonly summary: string;
  readonly fields: z.ZodType;
}

/** A request with its reply. An `error` may come in place of any reply. */
export interface Exchange {
  readonly asks: "coordinator" | "device";
  readonly request: WireMessage;
  readonly reply: WireMessage;
}

const nothing = z.strictObject({});

/** What coordinator and device ask each other, in the order of a run. */
export const exchanges: readonly Exchange[] = [
  {
    asks: "coordinator",
    request: message("describe", "Asks what the device is.", nothing),
    reply: message("description", "Profile, budget and protocols.", descriptionSchema),
  },
  {
    asks: "coordinator",
    request: message("prepare", "Here is the task: open model and data.", prepareSchema),
    reply: message("ready", "How many texts the device has.", readySchema),
  },
  {
    asks: "device",
    request: message("model-parts", "Asks what the task's model consists of.", nothing),
    reply: message("model-parts", "Blob `parts`: JSON, hashes of tensors and tokenizer.", nothing),
  },
  {
    asks: "device",
    request: message("model-piece", "Asks for bytes of a tensor or a file.", modelPieceSchema),
    reply: message("model-piece", "Blob `bytes`: exactly those.", nothing),
  },
  {
    asks: "coordinator",
    request: message("provide", "What to fetch the model for.", provideSchema),
    reply: message("provided", "The device has what it needs.", nothing),
  },
  {
    asks: "coordinator",
    request: message("refused", "Why the coordinator cannot use the device.", refusedSchema),
    reply: message("refused", "The device has heard it.", nothing),
  },
  {
    asks: "device",
    request: message("public-set", "Asks for the texts that every party may see.", nothing),
    reply: message("public-set", "Blob `texts`: one JSON array of strings.", nothing),
  },
  {
    asks: "coordinator",
    request: message(
      "start",
      "Begins a lane; tensors and blobs are those of its first message.",
      startSchema,
    ),
    reply: message("started", "The device works.", nothing),
  },
  {
    asks: "device",
    request: message("lane", "A message of the device's protocol.", laneRequestFields),
    reply: message("lane", "The protocol's answer, if it has one.", laneReplyFields),
  },
  {
    asks: "device",
    request: message("report", "What the device's round took.", reportSchema),
    reply: message("noted", "It is on the coordinator's disk.", nothing),
  },
  {
    asks: "device",
    request: message("failed", "The device gave the round up.", failedSchema),
    reply: message("noted", "It is on the coordinator's disk.", nothing),
  },
  {
    asks: "coordinator",
    request: message("close", "A round is over.", closeSchema),
    reply: message("closed", "What belongs to the accepted lane is kept.", nothing),
  },
  {
    asks: "coordinator",
    request: message("finish", "The task is finished.", nothing),
    reply: message("finished", "The device leaves.", nothing),
  },
];

/** In place of a reply; the header's `error` says what went wrong. */
export const errorReply = message("error", "The request was refused; see `error`.", nothing);

/** Lane messages of the built-in protocols, by direction. */
export const lanePayloads: Readonly<
  Record<string, { readonly up: KindSchemas; readonly down: KindSchemas }>
> = {
  full: { up: fullUpKinds, down: fullDownKinds },
  kd: { up: kdUpKinds, down: kdDownKinds },
  split: { up: splitUpKinds, down: splitDownKinds },
};

function message(kind: string, summary: string, fields: z.ZodType): WireMessage {
  return { kind, summary, fields };
}
