// Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1): what an encoding lost of
// one round is added to the next before that is encoded, so over the rounds nothing is lost, it only comes later.
import { type Float32Tensor, float32, type Parameters, sameShape } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { EncodedTensor, EncodingName } from "./encoded.ts";
import { decodeTensor, type EncodeOptions, encodeTensor } from "./index.ts";

/** What travels, what the other end makes of it, and what is still owed to it. */
export interface EncodedWithResidual {
  readonly encoded: ReadonlyMap<string, EncodedTensor>;
  readonly decoded: Parameters;
  /** `decoded` + this is the value + the residual before, up to one rounding to float32. */
  readonly residual: Parameters;
}

/**
 * Encodes a bundle and what earlier rounds owe of it. A tensor without an earlier residual owes nothing; residuals of tensors that
 * are not in `value` are not given back. Throws `PROTOCOL_SHAPE_MISMATCH` when a residual has another shape than its tensor,
 * `PROTOCOL_TENSOR_INVALID` when a value or a sum is not finite.
 */
export function encodeWithResidual(
  value: Parameters,
  residual: Parameters | undefined,
  encoding: EncodingName,
  options: Omit<EncodeOptions, "name"> = {},
): EncodedWithResidual {
  const encoded = new Map<string, EncodedTensor>();
  const decoded = new Map<string, Float32Tensor>();
  const left = new Map<string, Float32Tensor>();
  for (const [name, tensor] of value) {
    const owed = residual?.get(name);
    checkShape(name, tensor, owed);
    const { shape, data } = tensor;
    const wanted = owed ? float32(shape, sumOf(data, owed.data)) : tensor;
    const narrowed = encodeTensor(wanted, encoding, { ...options, name });
    const back = decodeTensor(narrowed, name);
    encoded.set(name, narrowed);
    decoded.set(name, back);
    left.set(
      name,
      float32(shape, lossOf(data, owed?.data ?? new Float32Array(data.length), back.data)),
    );
  }
  return { encoded, decoded, residual: left };
}

function sumOf(value: Float32Array, owed: Float32Array): Float32Array {
  const sum = new Float32Array(value.length);
  for (let i = 0; i < sum.length; i++) sum[i] = (value[i] as number) + (owed[i] as number);
  return sum;
}

/** Of the sum in float64, not of what float32 makes of it, or its rounding would be lost each round. */
function lossOf(value: Float32Array, owed: Float32Array, back: Float32Array): Float32Array {
  const loss = new Float32Array(value.length);
  for (let i = 0; i < loss.length; i++) {
    loss[i] = (value[i] as number) + (owed[i] as number) - (back[i] as number);
  }
  return loss;
}

function checkShape(name: string, { shape }: Float32Tensor, owed: Float32Tensor | undefined): void {
  if (owed === undefined || sameShape(owed.shape, shape)) return;
  const shapes = `[${owed.shape.join(", ")}], expected [${shape.join(", ")}]`;
  throw protocolErrors.error(
    "PROTOCOL_SHAPE_MISMATCH",
    `residual of "${name}" has shape ${shapes}`,
  );
}
