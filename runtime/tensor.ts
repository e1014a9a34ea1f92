// Dense tensors in row-major order: the currency of every folder.

/** A float32 tensor: weights, activations, gradients, adapters. */
export interface Float32Tensor {
  readonly dtype: "float32";
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** A float64 tensor: what the reference interpreter computes with. */
export interface Float64Tensor {
  readonly dtype: "float64";
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** An int64 tensor: token ids, labels, indices. */
export interface Int64Tensor {
  readonly dtype: "int64";
  readonly shape: readonly number[];
  readonly data: BigInt64Array;
}

/** An int8 tensor: quantised weights. */
export interface Int8Tensor {
  readonly dtype: "int8";
  readonly shape: readonly number[];
  readonly data: Int8Array;
}

/** A tensor that lies in a file as little-endian elements and is read when a session runs with it. */
export interface FileTensor {
  readonly dtype: "float32" | "int8";
  readonly shape: readonly number[];
  /** Never rewritten while in use. */
  readonly file: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Any tensor, tagged by `dtype`. */
export type Tensor = Float32Tensor | Float64Tensor | Int64Tensor | Int8Tensor;

/** Tensors by name; names are the checkpoint's or, for adapters, PEFT's. */
export type TensorBundle<T extends Tensor = Tensor> = ReadonlyMap<string, T>;

/** Trainable parameters or their updates: float32 tensors by PEFT name. */
export type Parameters = TensorBundle<Float32Tensor>;

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A float32 tensor over `data` (not copied), zeros when left out. */
export function float32(
  shape: readonly number[],
  data?: Float32Array | readonly number[],
): Float32Tensor {
  const values = data instanceof Float32Array ? data : Float32Array.from(data ?? []);
  return {
    dtype: "float32",
    shape,
    data: data === undefined ? new Float32Array(elementCount(shape)) : values,
  };
}

/** An int64 tensor of whole numbers. */
export function int64(
  shape: readonly number[],
  data: BigInt64Array | readonly number[],
): Int64Tensor {
  const values =
    data instanceof BigInt64Array ? data : BigInt64Array.from(data, (value) => BigInt(value));
  return { dtype: "int64", shape, data: values };
}

/** An int8 tensor; `data` is not copied when it is typed. */
export function int8(shape: readonly number[], data: Int8Array | readonly number[]): Int8Tensor {
  const values = data instanceof Int8Array ? data : Int8Array.from(data);
  return { dtype: "int8", shape, data: values };
}

/** Whether two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}
