// The few values of a channel that would swallow its scale (Dettmers et al. 2022, arXiv 2208.07339, keep whole outlier
// channels apart; here it is tokens within a channel, such as a text's first). They travel beside the int8 codes: how
// many they are (uint32), their values (bfloat16), their indices in the flattened tensor.
import { fromHalves, toHalves } from "./bf16.ts";
import type { Layout } from "./channels.ts";
import { indexBytes, packIndices, unpackIndices } from "./indices.ts";

/** Values set apart, by rising index. */
export interface Outliers {
  readonly indices: Uint32Array;
  readonly values: Float32Array;
}

/** None set apart. */
export const noOutliers: Outliers = { indices: new Uint32Array(0), values: new Float32Array(0) };

/** Most values of one channel that may be set apart. */
export function outlierQuota(count: number, { channels }: Layout, share: number): number {
  return channels === 0 ? 0 : Math.floor((share * count) / channels);
}

/** Largest magnitude of each channel without its `quota` largest ones. */
export function ordinaryLimits(
  data: Float32Array,
  { channels, inner }: Layout,
  quota: number,
): Float32Array {
  // Of each channel a heap of its quota + 1 largest magnitudes, the least of them on top: nearly all values stay below it.
  const size = quota + 1;
  const heaps = new Float32Array(channels * size);
  let channel = 0;
  let within = 0;
  for (let i = 0; i < data.length; i++) {
    const magnitude = Math.abs(data[i] as number);
    if (magnitude > (heaps[channel * size] as number)) {
      replaceTop(heaps, channel * size, size, magnitude);
    }
    if (++within === inner) {
      within = 0;
      if (++channel === channels) channel = 0;
    }
  }
  return Float32Array.from({ length: channels }, (_, each) => heaps[each * size] as number);
}

/** Values beyond their channel's limit, at most `most` of them. */
export function outliersOf(
  data: Float32Array,
  { limits, most }: { readonly limits: Float32Array; readonly most: number },
  { channels, inner }: Layout,
): Outliers {
  if (most === 0) return noOutliers;
  const indices = new Uint32Array(most);
  const values = new Float32Array(most);
  let found = 0;
  let channel = 0;
  let within = 0;
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number;
    if (Math.abs(value) > (limits[channel] as number)) {
      indices[found] = i;
      values[found++] = value;
    }
    if (++within === inner) {
      within = 0;
      if (++channel === channels) channel = 0;
    }
  }
  return { indices: indices.subarray(0, found), values: values.subarray(0, found) };
}

/** Most bytes that `kept` outliers among `count` values take. */
export function outlierBytes(kept: number, count: number): number {
  return valuesAt + 2 * kept + indexBytes({ kept, count });
}

/** Outliers as they travel. */
export function packOutliers({ indices, values }: Outliers, count: number): Uint8Array {
  const places = packIndices(indices, count);
  const placesAt = valuesAt + 2 * values.length;
  const bytes = new Uint8Array(placesAt + places.length);
  new DataView(bytes.buffer).setUint32(0, values.length, true);
  bytes.set(new Uint8Array(toHalves(values).buffer), valuesAt);
  bytes.set(places, placesAt);
  return bytes;
}

/** Outliers in foreign bytes; undefined when these do not hold what they say. */
export function unpackOutliers(bytes: Uint8Array, count: number): Outliers | undefined {
  if (bytes.length < valuesAt) return undefined;
  const kept = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const placesAt = valuesAt + 2 * kept;
  if (kept > count || placesAt > bytes.length) return undefined;
  const indices = unpackIndices(bytes.subarray(placesAt), { kept, count });
  return indices && { indices, values: fromHalves(bytes.subarray(valuesAt), kept) };
}

const valuesAt = 4;

/** Puts a value in the place of a heap's least and lets it sink. */
function replaceTop(heaps: Float32Array, start: number, size: number, value: number): void {
  let place = 0;
  for (let child = 1; child < size; child = 2 * place + 1) {
    const right = child + 1;
    const isLess =
      right < size && (heaps[start + right] as number) < (heaps[start + child] as number);
    const least = isLess ? right : child;
    if ((heaps[start + least] as number) >= value) break;
    heaps[start + place] = heaps[start + least] as number;
    place = least;
  }
  heaps[start + place] = value;
}
