// Checkpoint tensors as graph values. Mapped: constants in the weights file. Fed: inputs, so that one graph serves
// every block; what is fed to them are places in the same files.
import { runtimeErrors } from "../errors.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Value, ValueType } from "../graph/ir.ts";
import type { FileTensor } from "../tensor.ts";
import {
  type BaseModel,
  fileOf,
  type QuantisedLocation,
  type WeightLocation,
} from "./base-model.ts";

/**
 * A frozen tensor as a graph value. A quantised one is dequantised as soon as `after` exists, which every use of a
 * linear layer's weight must therefore name. Throws `MODEL_TENSOR_MISSING`.
 */
export type WeightOf = (name: string, after?: Value) => Value;

/** Weights as constants that sessions map from the model's files. */
export function mappedWeights(b: GraphBuilder, model: BaseModel): WeightOf {
  return weights(b, model, ({ name, place }) => {
    const { dtype, shape, file, offsetBytes, lengthBytes } = place;
    const value: Value = { name, dtype, shape };
    return b.initializer({ kind: "external", value, file, offsetBytes, lengthBytes });
  });
}

/** Rows [from, to) of a float32 tensor as a constant that sessions map. */
export function mappedRows(b: GraphBuilder, model: BaseModel) {
  return (name: string, from: number, to: number): Value => {
    const [{ place }] = placesOf(model, name) as [NamedPlace];
    const [rows = 1, ...rest] = place.shape;
    const rowBytes = place.lengthBytes / rows;
    return b.initializer({
      kind: "external",
      value: { name: `${name}[${from}:${to}]`, dtype: place.dtype, shape: [to - from, ...rest] },
      file: place.file,
      offsetBytes: place.offsetBytes + from * rowBytes,
      lengthBytes: (to - from) * rowBytes,
    });
  };
}

/** Weights as inputs, to be fed with `weightFeeds`. */
export function fedWeights(b: GraphBuilder, model: BaseModel): WeightOf {
  const inputs = new Map<string, Value>();
  return weights(b, model, ({ name, place }) => {
    const input = inputs.get(name) ?? b.input(name, place.dtype, place.shape);
    inputs.set(name, input);
    return input;
  });
}

/** What to feed a graph that was built with `fedWeights` for tensor `built` so that it computes with tensor `used`. */
export function weightFeeds(
  model: BaseModel,
  built: string,
  used: string,
): ReadonlyMap<string, FileTensor> {
  const places = placesOf(model, used);
  return new Map(
    placesOf(model, built).map(({ name }, i) => {
      const { dtype, ...place } = (places[i] as NamedPlace).place;
      if (dtype !== "int4") return [name, { ...place, dtype }];
      throw runtimeErrors.error("MODEL_UNSUPPORTED", "int4 weights cannot be fed, only mapped");
    }),
  );
}

interface Place extends Omit<FileTensor, "dtype"> {
  readonly dtype: ValueType & ("float32" | "int8" | "int4");
}

interface NamedPlace {
  readonly name: string;
  readonly place: Place;
}

function weights(
  b: GraphBuilder,
  model: BaseModel,
  valueIn: (named: NamedPlace) => Value,
): WeightOf {
  return (name, after) => {
    const values = placesOf(model, name).map(valueIn);
    const quantised = model.quantised?.tensors.get(name);
    if (!quantised) return values[0] as Value;
    if (after) {
      const { blockSize } = quantised;
      return b.op("DequantizeLinear", [...values, after], { blockSize }, name);
    }
    throw runtimeErrors.error(
      "GRAPH_INVALID",
      `nothing is named that ${name} is dequantised after`,
    );
  };
}

/** Where a tensor's parts lie: the float32 elements, or quantised elements and their scales. */
function placesOf(model: BaseModel, name: string): readonly NamedPlace[] {
  const quantised = model.quantised?.tensors.get(name);
  if (model.quantised && quantised) {
    return quantisedPlaces(name, model.quantised.file, model.quantised.format, quantised);
  }
  const location: WeightLocation | undefined = model.weights.get(name);
  if (location)
    return [{ name, place: { dtype: "float32", ...location, file: fileOf(model, location) } }];
  throw runtimeErrors.error("MODEL_TENSOR_MISSING", `the weights lack "${name}"`);
}

function quantisedPlaces(
  name: string,
  file: string,
  dtype: "int8" | "int4",
  location: QuantisedLocation,
): readonly NamedPlace[] {
  const { shape, blockSize } = location;
  const [rows = 0, columns = 0] = shape;
  return [
    {
      name: `${name}:${dtype}`,
      place: {
        dtype,
        shape,
        file,
        offsetBytes: location.dataOffsetBytes,
        lengthBytes: location.dataLengthBytes,
      },
    },
    {
      name: `${name}:scales`,
      place: {
        dtype: "float32",
        shape: [rows / blockSize, columns],
        file,
        offsetBytes: location.scalesOffsetBytes,
        lengthBytes: location.scalesLengthBytes,
      },
    },
  ];
}
