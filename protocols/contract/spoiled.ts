// Messages with something wrong in them, made from good ones.
import type { EncodedTensor } from "../encoding/index.ts";
import type { Payload } from "../protocol.ts";

/** Copies of a message, each with one of its tensors or blobs spoiled in one way. */
export function* spoiled(
  payload: Payload,
): Iterable<{ readonly what: string; readonly payload: Payload }> {
  const { tensors, blobs = new Map<string, Uint8Array>() } = payload;
  for (const [name, bytes] of blobs) {
    const shorter = new Map([...blobs, [name, bytes.subarray(1)]]);
    yield { what: `a byte too few in ${name}`, payload: { ...payload, blobs: shorter } };
    const none = new Map([...blobs].filter(([other]) => other !== name));
    yield { what: `no ${name}`, payload: { ...payload, blobs: none } };
  }
  for (const [name, tensor] of tensors) {
    const others = new Map([...tensors].filter(([other]) => other !== name));
    yield { what: `no ${name}`, payload: { ...payload, tensors: others } };
    for (const [what, wrong] of Object.entries(wrongs(tensor))) {
      yield {
        what: `${what} in ${name}`,
        payload: { ...payload, tensors: new Map([...tensors, [name, wrong]]) },
      };
    }
    yield {
      what: `a tensor beside ${name}`,
      payload: { ...payload, tensors: new Map([...tensors, ["stranger", tensor]]) },
    };
  }
}

function wrongs(tensor: EncodedTensor): Readonly<Record<string, EncodedTensor>> {
  const { shape, bytes } = tensor;
  const notFinite = new Uint8Array(bytes.length).fill(0xff);
  return {
    "another shape": { ...tensor, shape: [...shape, 1] },
    "a byte too few": { ...tensor, bytes: bytes.subarray(1) },
    "values that are not finite": { ...tensor, bytes: notFinite },
  };
}
