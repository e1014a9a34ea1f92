// float32 as it is: the bytes of the values, bit for bit. Node runs on little-endian machines only
// (x64, arm64), so typed arrays already are the wire's byte order.
import { elementCount } from "../../runtime/index.ts";
import type { ValueCodec } from "./encoded.ts";

/** Four bytes a value, exact. */
export const float32Codec: ValueCodec = {
  byteLength: (shape) => 4 * elementCount(shape),
  axisOf: () => "none",
  encode: (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice(),
  decode: (bytes, shape) => {
    const data = new Float32Array(elementCount(shape));
    new Uint8Array(data.buffer).set(bytes);
    return data;
  },
};
