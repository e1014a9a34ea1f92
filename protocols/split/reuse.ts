// Temporal reuse (SplitCom, arXiv 2602.10564): a text's activations travel only when they moved since they were last sent.
// Both ends hold what the coordinator last made of each text; a row travels whole, as its change, or not at all.
import { createHash, type Hash } from "node:crypto";
import { type Float32Tensor, float32 } from "../../runtime/index.ts";
import type { EncodedTensor } from "../encoding/encoded.ts";
import { protocolErrors } from "../errors.ts";
import { decodeExactly, outOfTurn } from "../payload.ts";
import { joinRows, type RowStore, rowStore, rowsOf } from "./row-store.ts";
import { type RowLayout, rowSizes, unpackRows } from "./rows.ts";

/** How a row travels; numbers, for messages carry one for each text. */
export const rowModes = { kept: 0, change: 1, whole: 2 } as const;

/** What one end remembers of the rows that travelled, and a digest of what a lane began with and every message since. */
export interface RowMemory {
  readonly store: RowStore;
  /** Empty for a memory of nothing; equal digests mean equal memories. */
  readonly digest: string;
  /** Takes a message into the digest. */
  note(message: RowMessage): void;
  clear(): void;
}

/** The rows of one message. */
export interface RowMessage {
  readonly lengths: readonly number[];
  /** Number of each text: its place among the device's. */
  readonly texts: readonly number[];
  /** How each row travels. */
  readonly modes: readonly number[];
  /** `activations` of the rows that travel whole and `changes` of those that changed, each [tokens, hidden], where there are any. */
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
}

/** A memory of the rows that an earlier lane left, of nothing when left out. */
export function rowMemory(
  cacheBytes: number,
  layout: RowLayout,
  rows?: ReadonlyMap<number, EncodedTensor>,
): RowMemory {
  const store = rowStore({ cacheBytes, layout, encoding: "bf16" }, rows);
  let digest = digestOf(store.rows);
  return {
    store,
    get digest() {
      return digest;
    },
    note: ({ lengths, texts, modes, tensors }) => {
      const hash = createHash("sha256").update(JSON.stringify([digest, lengths, texts, modes]));
      for (const name of ["activations", "changes"]) hash.update(tensors.get(name)?.bytes ?? "");
      digest = shortened(hash);
    },
    clear: () => {
      store.clear();
      digest = "";
    },
  };
}

function digestOf(rows: ReadonlyMap<number, EncodedTensor>): string {
  if (rows.size === 0) return "";
  const hash = createHash("sha256");
  for (const [text, { bytes }] of [...rows].sort(([a], [b]) => a - b))
    hash.update(JSON.stringify([text, bytes.length])).update(bytes);
  return shortened(hash);
}

function shortened(hash: Hash): string {
  return hash.digest("hex").slice(0, 32);
}

/** What an end makes of a message: the batch, and how to remember it. */
export interface ArrivedRows {
  /** [batch * sequence, hidden] */
  readonly activations: Float32Tensor;
  /** Commits the rows; until then the message has left no trace. */
  keep(): void;
}

/**
 * The batch that a message means to this memory. Both ends call it on the same bytes, so both remember the same rows. Throws
 * `PROTOCOL_PAYLOAD_INVALID` for rows that are not there, and as `decodeExactly` does.
 */
export function receiveRows(
  memory: RowMemory,
  layout: RowLayout,
  message: RowMessage,
): ArrivedRows {
  const { lengths, texts, modes, tensors } = message;
  if (texts.length !== lengths.length || modes.length !== lengths.length) {
    throw invalid("texts and modes must be as many as lengths");
  }
  const sizes = rowSizes(lengths, layout);
  const ofMode = (mode: number) => sizes.filter((_, i) => modes[i] === mode);
  const decoded = decodeRows(tensors, layout, {
    activations: ofMode(rowModes.whole),
    changes: ofMode(rowModes.change),
  });
  const fresh = new Map<number, Float32Array>();
  const rows = texts.map((text, i) => {
    const known = fresh.get(text) ?? memory.store.get(text);
    if (modes[i] !== rowModes.whole && known?.length !== sizes[i]) {
      throw invalid(`nothing of this length is known of text ${text}`);
    }
    if (known && modes[i] === rowModes.kept) return known;
    const row =
      known && modes[i] === rowModes.change
        ? sumOf(known, decoded.changes.shift() as Float32Array)
        : (decoded.activations.shift() as Float32Array);
    fresh.set(text, row);
    return row;
  });
  return {
    activations: unpackRows(joinRows(rows, layout.hidden), lengths, layout),
    keep: () => {
      for (const [text, row] of fresh) memory.store.set(text, row);
      memory.note(message);
    },
  };
}

/** Checks that a device's memory is this one; a device that has none starts both ends afresh, at the first message of a lane only. */
export function meetMemory(memory: RowMemory, theirs: string, isFirst: boolean): void {
  if (theirs === memory.digest) return;
  if (theirs !== "" || !isFirst) {
    throw outOfTurn("split: the device remembers other rows than the coordinator");
  }
  memory.clear();
}

function decodeRows(
  tensors: ReadonlyMap<string, EncodedTensor>,
  { hidden }: RowLayout,
  sizes: Readonly<Record<"activations" | "changes", readonly number[]>>,
): Record<"activations" | "changes", Float32Array[]> {
  const shapes = new Map(
    Object.entries(sizes).flatMap(([name, own]) => {
      const values = own.reduce((sum, size) => sum + size, 0);
      return values === 0 ? [] : [[name, [values / hidden, hidden]] as const];
    }),
  );
  const decoded = decodeExactly(tensors, shapes);
  const rows = (name: "activations" | "changes") =>
    rowsOf(decoded.get(name) ?? float32([0, hidden]), sizes[name]);
  return { activations: rows("activations"), changes: rows("changes") };
}

function sumOf(row: Float32Array, change: Float32Array): Float32Array {
  return row.map((value, i) => value + (change[i] as number));
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `split: ${what}`);
}
