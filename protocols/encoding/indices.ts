// Rising indices as the gaps between them, Rice-coded (Rice 1979; the optimal prefix code of geometric gaps, Golomb 1966):
// gap = quotient * 2^low + remainder, written as `quotient` zero bits, a one, and `low` bits of the remainder, least first,
// from the low end of each byte. low = 0 is a bitmap. `low` follows from the counts, so both ends know it.

/** How many indices there are, all below `count`. */
export interface IndexRange {
  readonly kept: number;
  readonly count: number;
}

/** Most bytes that such indices take, wherever they lie. */
export function indexBytes(range: IndexRange): number {
  return Math.ceil(mostBits(range, lowBits(range)) / 8);
}

/** Packs rising indices below `count`. */
export function packIndices(indices: Uint32Array, count: number): Uint8Array {
  const range = { kept: indices.length, count };
  const low = lowBits(range);
  const bytes = new Uint8Array(indexBytes(range));
  let position = 0;
  let next = 0;
  for (let i = 0; i < indices.length; i++) {
    const gap = (indices[i] as number) - next;
    next += gap + 1;
    position += gap >>> low;
    const code = 1 | ((gap & (2 ** low - 1)) << 1);
    let at = position >>> 3;
    for (let left = (code << (position & 7)) >>> 0; left > 0; left >>>= 8, at++) {
      bytes[at] = (bytes[at] as number) | (left & 255);
    }
    position += low + 1;
  }
  return bytes.slice(0, Math.ceil(position / 8));
}

/** The indices in foreign bytes; undefined when these end early, reach beyond `count` or hold more. */
export function unpackIndices(bytes: Uint8Array, range: IndexRange): Uint32Array | undefined {
  const end = 8 * bytes.length;
  const low = lowBits(range);
  // Each takes a bit at least, which bounds what is allocated on a stranger's word.
  if (range.kept * (low + 1) > end) return undefined;
  const indices = new Uint32Array(range.kept);
  let position = 0;
  let next = 0;
  for (let i = 0; i < indices.length; i++) {
    const start = position;
    while (position < end && bitAt(bytes, position) === 0) position++;
    next += (position - start) * 2 ** low;
    position += 1;
    if (position + low > end) return undefined;
    for (let place = 0; place < low; place++) next += bitAt(bytes, position++) << place;
    if (next >= range.count) return undefined;
    indices[i] = next++;
  }
  return Math.ceil(position / 8) === bytes.length ? indices : undefined;
}

// Remainders of so many bits still fit a 32-bit word at any place in a byte.
const mostLow = 24;

/** Bits of remainder that make the longest possible code shortest. */
function lowBits(range: IndexRange): number {
  let low = 0;
  while (low < mostLow && mostBits(range, low + 1) < mostBits(range, low)) low++;
  return low;
}

/** The quotients cannot sum to more than the places between the indices allow. */
function mostBits({ kept, count }: IndexRange, low: number): number {
  return kept * (low + 1) + Math.floor((count - kept) / 2 ** low);
}

function bitAt(bytes: Uint8Array, position: number): number {
  return ((bytes[position >>> 3] as number) >>> (position & 7)) & 1;
}
