// Checks of foreign messages: fields by schema, tensors by name and shape, before anything uses them.
import type { z } from "zod";
import { type Float32Tensor, float32, type Parameters, sameShape } from "../runtime/index.ts";
import type { EncodedTensor } from "./encoding/encoded.ts";
import { decodeTensor } from "./encoding/index.ts";
import { protocolErrors } from "./errors.ts";
import type { Payload } from "./protocol.ts";

/** A message of one kind with typed fields. */
export interface TypedPayload<Kind extends string, Fields> extends Payload {
  readonly kind: Kind;
  readonly fields: Readonly<Record<string, unknown>> & Fields;
}

/** Field schemas by message kind. */
export type KindSchemas = Readonly<Record<string, z.ZodType<Readonly<Record<string, unknown>>>>>;

/** The union of the messages that `Schemas` describe. */
export type PayloadOf<Schemas extends KindSchemas> = {
  [K in Extract<keyof Schemas, string>]: TypedPayload<K, z.output<Schemas[K]>>;
}[Extract<keyof Schemas, string>];

/** Types a foreign message; throws `PROTOCOL_PAYLOAD_INVALID` naming the kind and the field. */
export function parsePayload<const Schemas extends KindSchemas>(
  payload: Payload,
  schemas: Schemas,
): PayloadOf<Schemas> {
  const schema = Object.hasOwn(schemas, payload.kind) ? schemas[payload.kind] : undefined;
  if (!schema) {
    const known = Object.keys(schemas).join(", ");
    throw protocolErrors.error(
      "PROTOCOL_PAYLOAD_INVALID",
      `unknown message "${payload.kind}"; expected ${known}`,
    );
  }
  const parsed = schema.safeParse(payload.fields);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const where = issue?.path.join(".") || "fields";
    throw protocolErrors.error(
      "PROTOCOL_PAYLOAD_INVALID",
      `"${payload.kind}": ${where}: ${issue?.message}`,
    );
  }
  return {
    kind: payload.kind,
    fields: parsed.data,
    tensors: payload.tensors,
    ...(payload.blobs ? { blobs: payload.blobs } : {}),
  } as PayloadOf<Schemas>;
}

/**
 * Decodes tensors that must have exactly these names and shapes; throws `PROTOCOL_SHAPE_MISMATCH` naming
 * the tensor, or `PROTOCOL_TENSOR_INVALID` for bytes that do not fit or values that are not finite.
 */
export function decodeExactly(
  tensors: ReadonlyMap<string, EncodedTensor>,
  shapes: ReadonlyMap<string, readonly number[]>,
): Parameters {
  for (const name of tensors.keys()) {
    if (!shapes.has(name)) {
      throw protocolErrors.error(
        "PROTOCOL_SHAPE_MISMATCH",
        `tensor "${name}" is not expected here`,
      );
    }
  }
  return new Map([...shapes].map(([name, shape]) => [name, decodeOne(tensors, name, shape)]));
}

/**
 * Decodes an update of parameters; throws as `decodeExactly` does, and `PROTOCOL_TENSOR_INVALID` for a value that no training
 * makes: finite as it is, it would let a later sum overflow.
 */
export function decodeUpdate(
  tensors: ReadonlyMap<string, EncodedTensor>,
  shapes: ReadonlyMap<string, readonly number[]>,
): Parameters {
  const update = decodeExactly(tensors, shapes);
  for (const [name, { data }] of update) {
    const at = data.findIndex((value) => Math.abs(value) > largestChange);
    if (at < 0) continue;
    throw protocolErrors.error(
      "PROTOCOL_TENSOR_INVALID",
      `tensor "${name}": value ${at} changes by ${data[at]}, at most ${largestChange} is taken`,
    );
  }
  return update;
}

/** Adapters and heads live around 1. */
const largestChange = 1e6;

/** Decodes the only tensor of a message, which must have this name and shape. */
export function decodeOnly(
  tensors: ReadonlyMap<string, EncodedTensor>,
  name: string,
  shape: readonly number[],
): Float32Tensor {
  return decodeExactly(tensors, new Map([[name, shape]])).get(name) as Float32Tensor;
}

function decodeOne(
  tensors: ReadonlyMap<string, EncodedTensor>,
  name: string,
  shape: readonly number[],
): Float32Tensor {
  const encoded = tensors.get(name);
  if (encoded && sameShape(encoded.shape, shape)) return decodeTensor(encoded, name);
  const actual = encoded ? `has shape [${encoded.shape.join(", ")}]` : "is missing";
  throw protocolErrors.error(
    "PROTOCOL_SHAPE_MISMATCH",
    `tensor "${name}" ${actual}, expected [${shape.join(", ")}]`,
  );
}

/** Bytes of the message's tensors as plain float32. */
export function rawTensorBytes({ tensors }: Payload): number {
  let bytes = 0;
  for (const { shape } of tensors.values())
    bytes += 4 * shape.reduce((product, size) => product * size, 1);
  return bytes;
}

/** after - before, tensor by tensor. */
export function difference(after: Parameters, before: Parameters): Parameters {
  return new Map(
    [...after].map(([name, { shape, data }]) => {
      const base = (before.get(name) as Float32Tensor).data;
      return [
        name,
        float32(
          shape,
          data.map((value, i) => value - (base[i] as number)),
        ),
      ];
    }),
  );
}

/** The tensors of those names, all of which `tensors` must have. */
export function subset<T>(
  tensors: ReadonlyMap<string, T>,
  names: Iterable<string>,
): ReadonlyMap<string, T> {
  return new Map([...names].map((name) => [name, tensors.get(name) as T]));
}

/** The error for a message that this moment of the round does not expect. */
export function outOfTurn(what: string): Error {
  return protocolErrors.error("PROTOCOL_OUT_OF_TURN", what);
}
