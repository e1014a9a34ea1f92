// A writer of the few protobuf messages that a model file is made of. Field numbers are those of
// onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3, IR version 9). Write only.

/** An encoded message, without its own tag and length. */
export type Message = Uint8Array<ArrayBuffer>;

/** `TensorProto.DataType`. */
export const elementTypes = { float32: 1, int8: 3, int64: 7, bool: 9, int4: 22 } as const;

/** The value of a node's attribute, tagged by its `AttributeProto.AttributeType`. */
export type AttributeValue =
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "int"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "ints"; readonly value: readonly number[] };

/** Bytes of a tensor: little-endian in the message, or at a place in a file beside the model. */
export type TensorBytes =
  | { readonly kind: "raw"; readonly bytes: Uint8Array }
  | {
      readonly kind: "external";
      readonly location: string;
      readonly offset: number;
      readonly length: number;
    };

/** `ModelProto`: ir_version 1, producer_name 2, graph 7, opset_import 8 (`OperatorSetIdProto`: version 2). */
export function modelProto(opset: number, graph: Message): Message {
  return join([varint(1, 9), text(2, "trifold"), bytes(7, graph), bytes(8, varint(2, opset))]);
}

/** `GraphProto`: node 1, name 2, initializer 5, input 11, output 12. */
export function graphProto(
  name: string,
  parts: Readonly<Record<"nodes" | "initializers" | "inputs" | "outputs", readonly Message[]>>,
): Message {
  const repeated = (field: number, messages: readonly Message[]) =>
    messages.map((message) => bytes(field, message));
  return join([
    ...repeated(1, parts.nodes),
    text(2, name),
    ...repeated(5, parts.initializers),
    ...repeated(11, parts.inputs),
    ...repeated(12, parts.outputs),
  ]);
}

/** `NodeProto`: input 1, output 2, op_type 4, attribute 5. */
export function nodeProto(
  opType: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, AttributeValue>>,
): Message {
  return join([
    ...inputs.map((input) => text(1, input)),
    ...outputs.map((output) => text(2, output)),
    text(4, opType),
    ...Object.entries(attributes).map(([name, value]) => bytes(5, attributeProto(name, value))),
  ]);
}

/** `ValueInfoProto`: name 1, type 2 (`TypeProto`: tensor_type 1; `Tensor`: elem_type 1, shape 2; `Dimension`: dim_value 1). */
export function valueInfoProto(
  name: string,
  elementType: number,
  shape: readonly number[],
): Message {
  const dimensions = join(shape.map((size) => bytes(1, varint(1, size))));
  const tensor = join([varint(1, elementType), bytes(2, dimensions)]);
  return join([text(1, name), bytes(2, bytes(1, tensor))]);
}

/** `TensorProto`: dims 1, data_type 2, name 8, raw_data 9, external_data 13 (`StringStringEntryProto`: key 1, value 2), data_location 14 (EXTERNAL = 1). */
export function tensorProto(
  name: string,
  elementType: number,
  shape: readonly number[],
  content: TensorBytes,
): Message {
  const head = [...shape.map((size) => varint(1, size)), varint(2, elementType), text(8, name)];
  if (content.kind === "raw") return join([...head, bytes(9, content.bytes)]);
  const { location, offset, length } = content;
  const entries = Object.entries({ location, offset, length }).map(([key, value]) =>
    bytes(13, join([text(1, key), text(2, String(value))])),
  );
  return join([...head, ...entries, varint(14, 1)]);
}

/** `AttributeProto`: name 1, f 2, i 3, s 4, ints 8, type 20 (FLOAT 1, INT 2, STRING 3, INTS 7). */
function attributeProto(name: string, attribute: AttributeValue): Message {
  const content = (): readonly Message[] => {
    switch (attribute.kind) {
      case "float":
        return [float(2, attribute.value), varint(20, 1)];
      case "int":
        return [varint(3, attribute.value), varint(20, 2)];
      case "string":
        return [text(4, attribute.value), varint(20, 3)];
      case "ints":
        return [...attribute.value.map((value) => varint(8, value)), varint(20, 7)];
    }
  };
  return join([text(1, name), ...content()]);
}

// Wire types of the protobuf encoding: 0 varint, 2 length-delimited, 5 fixed 32 bits.

function varint(field: number, value: number): Message {
  return Uint8Array.from([...digits(field << 3), ...digits(value)]);
}

function bytes(field: number, content: Uint8Array): Message {
  return join([Uint8Array.from([...digits((field << 3) | 2), ...digits(content.length)]), content]);
}

function text(field: number, value: string): Message {
  return bytes(field, Buffer.from(value, "utf8"));
}

function float(field: number, value: number): Message {
  const encoded = new Uint8Array(4);
  new DataView(encoded.buffer).setFloat32(0, value, true);
  return join([Uint8Array.from(digits((field << 3) | 5)), encoded]);
}

/** Base 128, least significant digit first. Whole numbers from 0 up: no field of ours is ever negative. */
function digits(value: number): number[] {
  const result: number[] = [];
  let rest = value;
  for (; rest > 0x7f; rest = Math.floor(rest / 0x80)) result.push((rest % 0x80) | 0x80);
  return [...result, rest];
}

function join(parts: readonly Uint8Array[]): Message {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
