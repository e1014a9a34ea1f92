// Rows of texts that an end of a cut keeps from step to step: what was sent of them last, or what their encoding lost.
import { type Float32Tensor, float32 } from "../../runtime/index.ts";
import type { EncodedTensor, EncodingName } from "../encoding/encoded.ts";
import { decodeTensor, encodedByteLength, encodeTensor } from "../encoding/index.ts";
import type { RowLayout } from "./rows.ts";

/** Rows by text. A text is kept or not by its number alone, so two ends of equal settings keep the same ones. */
export interface RowStore {
  /** What is kept, by text. */
  readonly rows: ReadonlyMap<number, EncodedTensor>;
  get(text: number): Float32Array | undefined;
  /** Keeps a row, narrowed; does nothing for a text that is not kept. */
  set(text: number, row: Float32Array): void;
  clear(): void;
}

/** How many bytes a store may take, and how it narrows rows. */
export interface RowStoreOptions {
  readonly cacheBytes: number;
  readonly layout: RowLayout;
  readonly encoding: Extract<EncodingName, "float32" | "bf16">;
}

/**
 * A store with these rows of an earlier one of equal options. Epochs come back to every text in turn, so keeping the rows used last would keep none of them until they are
 * needed: a fixed set of texts is kept instead.
 */
export function rowStore(
  { cacheBytes, layout, encoding }: RowStoreOptions,
  kept: ReadonlyMap<number, EncodedTensor> = new Map(),
): RowStore {
  const capacity = Math.floor(cacheBytes / rowBytesOf({ layout, encoding }));
  const rows = new Map(kept);
  return {
    rows,
    get: (text) => {
      const row = rows.get(text);
      return row && decodeTensor(row).data;
    },
    set: (text, row) => {
      if (text < capacity) rows.set(text, encodeTensor(float32([row.length], row), encoding));
    },
    clear: () => rows.clear(),
  };
}

/** The most bytes that a store takes for so many texts, for any number when left out; a shorter text takes less. */
export function mostBytes(options: RowStoreOptions, texts = Number.POSITIVE_INFINITY): number {
  return Math.min(options.cacheBytes, texts * rowBytesOf(options));
}

function rowBytesOf({ layout, encoding }: Omit<RowStoreOptions, "cacheBytes">): number {
  return encodedByteLength([layout.sequence * layout.hidden], encoding);
}

/** The rows of a packed tensor [tokens, hidden], as views. */
export function rowsOf({ data }: Float32Tensor, sizes: readonly number[]): Float32Array[] {
  let from = 0;
  return sizes.map((size) => {
    from += size;
    return data.subarray(from - size, from);
  });
}

/** Rows one after another, [tokens, hidden]. */
export function joinRows(rows: readonly Float32Array[], hidden: number): Float32Tensor {
  const size = rows.reduce((sum, { length }) => sum + length, 0);
  const joined = float32([size / hidden, hidden]);
  let from = 0;
  for (const row of rows) {
    joined.data.set(row, from);
    from += row.length;
  }
  return joined;
}
