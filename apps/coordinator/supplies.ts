// What devices fetch once beside the rounds: the public texts, what the model consists of, and pieces of it.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Envelope, Reply } from "../../broker/index.ts";
import { tensorHashes } from "../../runtime/index.ts";
import { modelPieceSchema, readFields, tokenizerFiles } from "../control-messages.ts";
import { coordinatorErrors } from "./errors.ts";
import type { PreparedTask } from "./prepared-task.ts";

/** What devices may fetch at any time. */
export interface Supplies {
  /** The reply to a request for something of it, or undefined for any other request. */
  answer(request: Envelope): Promise<Reply | undefined>;
}

/** What supplies are made of. */
export type SuppliesOptions = Pick<PreparedTask, "publicBytes" | "modelFolder" | "model">;

/** Supplies that read the model where it lies, a piece at a time. */
export function createSupplies(options: SuppliesOptions): Supplies {
  let parts: Promise<Parts> | undefined;
  const partsOf = (): Promise<Parts> => {
    parts ??= listParts(options);
    return parts;
  };
  const answers: Readonly<Record<string, (request: Envelope) => Promise<Reply>>> = {
    "public-set": async () => ({
      kind: "public-set",
      blobs: new Map([["texts", options.publicBytes]]),
    }),
    "model-parts": async () => ({
      kind: "model-parts",
      blobs: new Map([["parts", (await partsOf()).list]]),
    }),
    "model-piece": async (request) => ({
      kind: "model-piece",
      blobs: new Map([["bytes", await readPiece((await partsOf()).places, request)]]),
    }),
  };
  return {
    answer: async (request) =>
      Object.hasOwn(answers, request.kind) ? await answers[request.kind]?.(request) : undefined,
  };
}

interface Place {
  readonly file: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

interface Parts {
  /** As it travels: JSON of `modelPartsSchema`. */
  readonly list: Uint8Array;
  /** By sha256. */
  readonly places: ReadonlyMap<string, Place>;
}

async function listParts({ model, modelFolder }: SuppliesOptions): Promise<Parts> {
  const places = new Map<string, Place>();
  const hashes = await tensorHashes(model);
  for (const [name, { offsetBytes, lengthBytes }] of model.weights) {
    const file = model.weightsFile;
    places.set(hashes.get(name) as string, { file, offsetBytes, lengthBytes });
  }
  const tokenizer: Record<string, { readonly sha256: string; readonly bytes: number }> = {};
  for (const name of tokenizerFiles) {
    const file = join(modelFolder, name);
    if (!existsSync(file)) continue;
    const content = await readFile(file);
    const sha256 = createHash("sha256").update(content).digest("hex");
    tokenizer[name] = { sha256, bytes: content.length };
    places.set(sha256, { file, offsetBytes: 0, lengthBytes: content.length });
  }
  const list = { tensors: Object.fromEntries(hashes), tokenizer };
  return { list: Buffer.from(JSON.stringify(list)), places };
}

async function readPiece(
  places: ReadonlyMap<string, Place>,
  request: Envelope,
): Promise<Uint8Array> {
  const { sha256, offsetBytes, lengthBytes } = readFields(request, modelPieceSchema);
  const place = places.get(sha256);
  if (!place || offsetBytes + lengthBytes > place.lengthBytes) {
    throw coordinatorErrors.error(
      "PROVISION_UNKNOWN",
      `no part of the model has bytes ${offsetBytes} to ${offsetBytes + lengthBytes} of ${sha256.slice(0, 12)}`,
      { hint: "The coordinator runs another task by now: the device asks again." },
    );
  }
  const handle = await open(place.file);
  try {
    const bytes = new Uint8Array(lengthBytes);
    const { bytesRead } = await handle.read(bytes, 0, lengthBytes, place.offsetBytes + offsetBytes);
    return bytes.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
