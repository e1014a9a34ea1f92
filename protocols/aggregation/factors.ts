// Parts of an adapter's factors: a device of a lower rank has the leading rows of A and the leading columns of B.
import { type Float32Tensor, float32 } from "../../runtime/index.ts";

/** A tensor of another shape with the values that both have, `fill` elsewhere; the tensor itself when the shapes are equal. */
export function resized(
  tensor: Float32Tensor,
  shape: readonly number[],
  fill: number,
): Float32Tensor {
  if (shape.every((size, axis) => size === tensor.shape[axis])) return tensor;
  const result = float32(shape);
  result.data.fill(fill);
  const common = shape.map((size, axis) => Math.min(size, tensor.shape[axis] as number));
  forEachLeading(common, shape, (part, whole) => {
    result.data[whole] = tensor.data[positionOf(part, common, tensor.shape)] as number;
  });
  return result;
}

/** Calls back for each value of a leading part with its position there and in the whole. */
export function forEachLeading(
  part: readonly number[],
  whole: readonly number[],
  visit: (inPart: number, inWhole: number) => void,
): void {
  const { rows, columns } = matrixSize(part);
  const width = matrixSize(whole).columns;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      visit(row * columns + column, row * width + column);
    }
  }
}

function positionOf(at: number, part: readonly number[], whole: readonly number[]): number {
  const { columns } = matrixSize(part);
  return Math.floor(at / columns) * matrixSize(whole).columns + (at % columns);
}

/** A shape as a matrix: what has no rank axis has one shape everywhere, so how it is cut is no matter. */
function matrixSize(shape: readonly number[]): { readonly rows: number; readonly columns: number } {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return { rows, columns };
}
