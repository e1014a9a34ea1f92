// float32 as it is: the bytes of the values, bit for bit. Node runs on little-endian machines only
// (x64, arm64), so typed arrays already are the wire's byte order.
import { elementCount } from "../../runtime/index.ts";
import { lengthProblem, type ValueCodec } from "./encoded.ts";

/** Four bytes a value, exact. */
export const float32Codec: ValueCodec = {
  byteLength: (shape) => 4 * elementCount(shape),
  encode: (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice(),
  decode: (bytes, shape) => {
    const count = elementCount(shape);
    const problem = lengthProblem(bytes, 4 * count);
    if (problem) return problem;
    const data = new Float32Array(count);
    new Uint8Array(data.buffer).set(bytes);
    return data;
  },
};
