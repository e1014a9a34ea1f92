// The two factors of an adapter by name, and parts of them: a device of a lower rank has the leading rows of A and the
// leading columns of B.
import {
  type Float32Tensor,
  float32,
  type LoraSettings,
  type Parameters,
} from "../../runtime/index.ts";
import { scaleTensor } from "../bundles.ts";

/** Which factor a parameter is. */
export interface Factor {
  /** Name of the adapted layer, equal for both of its factors. */
  readonly module: string;
  /** A is [rank, in], B is [out, rank]. */
  readonly factor: "A" | "B";
}

/** The factor of that PEFT name, or undefined for a parameter that is none, such as the head. */
export function factorOf(name: string): Factor | undefined {
  const { module, factor } = factorPattern.exec(name)?.groups ?? {};
  if (module === undefined) return undefined;
  return { module, factor: factor === "A" ? "A" : "B" };
}

/** PEFT's name of a layer's factor. */
export function factorName(module: string, factor: Factor["factor"]): string {
  return `${module}.lora_${factor}.weight`;
}

/** The axis of a parameter that counts ranks, or undefined for one that is no factor. */
export function rankAxis(name: string): 0 | 1 | undefined {
  const found = factorOf(name);
  return found && (found.factor === "A" ? 0 : 1);
}

/** Settings of an adapter of another rank with the same scale (alpha_i = s * r_i): then factors of all ranks can be averaged. */
export function loraOfRank<T extends LoraSettings>(lora: T, rank: number): T {
  const share = rank / lora.rank;
  return { ...lora, rank, alpha: lora.alpha * (lora.rsLora ? Math.sqrt(share) : share) };
}

/**
 * The leading `rank` ranks of every factor, and all other parameters as they are; factors that have no more are the same tensors.
 * A `stretch` multiplies both factors: sqrt(s / s_i) makes of parameters for scale s those for scale s_i, with the same product.
 */
export function leadingRanks(parameters: Parameters, rank: number, stretch = 1): Parameters {
  return new Map(
    [...parameters].map(([name, tensor]) => {
      const axis = rankAxis(name);
      if (axis === undefined) return [name, tensor];
      const { shape } = tensor;
      const part = shape.map((size, i) => (i === axis ? Math.min(size, rank) : size));
      const leading = resized(tensor, part, 0);
      return [name, stretch === 1 ? leading : scaleTensor(leading, stretch)];
    }),
  );
}

/** Whether `part` is as long as `whole` on each axis but that of ranks, where it may be shorter. */
export function isLeadingPart(
  name: string,
  part: readonly number[],
  whole: readonly number[],
): boolean {
  const axis = rankAxis(name);
  return (
    part.length === whole.length &&
    part.every((size, i) => size === whole[i] || (i === axis && size <= (whole[i] as number)))
  );
}

/** The shape that has room for all of these. */
export function widestShape(shapes: readonly (readonly number[])[]): readonly number[] {
  const [first = [], ...others] = shapes;
  return first.map((size, axis) => Math.max(size, ...others.map((shape) => shape[axis] ?? 0)));
}

/** A tensor of another shape with the values that both have, `fill` elsewhere; the tensor itself when the shapes are equal. */
export function resized(
  tensor: Float32Tensor,
  shape: readonly number[],
  fill: number,
): Float32Tensor {
  if (shape.every((size, axis) => size === tensor.shape[axis])) return tensor;
  const result = float32(shape);
  result.data.fill(fill);
  copyLeading(tensor, result);
  return result;
}

/** Values by shape. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array;
}

/** Copies the values that both have, in place. */
export function copyLeading(from: Values, into: Values): void {
  const common = into.shape.map((size, axis) => Math.min(size, from.shape[axis] as number));
  const { columns } = matrixSize(from.shape);
  forEachLeading(common, into.shape, (_, at, row, column) => {
    into.data[at] = from.data[row * columns + column] as number;
  });
}

/** Calls back for each value of a leading part with its position there and in the whole, row and column. */
export function forEachLeading(
  part: readonly number[],
  whole: readonly number[],
  visit: (inPart: number, inWhole: number, row: number, column: number) => void,
): void {
  const { rows, columns } = matrixSize(part);
  const width = matrixSize(whole).columns;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      visit(row * columns + column, row * width + column, row, column);
    }
  }
}

const factorPattern = /^(?<module>.+)\.lora_(?<factor>[AB])\.weight$/;

/** A shape as a matrix: factors are matrices, and other tensors have one shape everywhere, so how they are cut is no matter. */
function matrixSize(shape: readonly number[]): { readonly rows: number; readonly columns: number } {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return { rows, columns };
}
