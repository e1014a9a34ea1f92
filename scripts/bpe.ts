// Byte-level byte-pair encoding as GPT-2 trains it (Sennrich et al. 2016, "Neural Machine Translation of
// Rare Words with Subword Units"; Radford et al. 2019). Only training: encoding is the tokenizer library's.

/** What a training yields: tokens by id, and the merges in the order they apply. */
export interface BpeModel {
  /** The 256 byte tokens, then one token per merge; the position is the id. */
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [left: string, right: string])[];
}

/** GPT-2's pre-tokenizer: merges never cross the pieces it cuts. */
export const GPT2_PIECES =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** GPT-2's printable stand-in for each byte, by byte: itself when visible, else the next free code from 256. */
export const BYTE_SYMBOLS: readonly string[] = byteSymbols();

/**
 * Learns up to `mergeCount` merges, the most frequent pair first; fewer when no pair is left.
 *
 * Equal counts: the pair with the smaller left, then right id, so the same text gives the same tokens.
 * Counts are kept per pair and only words holding the merged pair are touched.
 */
export function trainBpe(texts: Iterable<string>, mergeCount: number): BpeModel {
  const tokens = [...BASE_TOKENS];
  const merges: (readonly [string, string])[] = [];
  const words = countWords(texts);
  const pairs: PairTable = new Map();
  words.forEach((word, index) => {
    countPairs(pairs, word, index, 1);
  });
  while (merges.length < mergeCount) {
    const best = mostFrequent(pairs);
    if (best === undefined) {
      break;
    }
    const left = tokens[best.left] as string;
    const right = tokens[best.right] as string;
    const merged = tokens.push(left + right) - 1;
    merges.push([left, right]);
    for (const index of [...best.words]) {
      const word = words[index] as Word;
      countPairs(pairs, word, index, -1);
      word.ids = mergePair(word.ids, best, merged);
      countPairs(pairs, word, index, 1);
    }
  }
  return { tokens, merges };
}

/** The special token between texts; it takes the last id, as GPT-2's does. */
export const END_OF_TEXT = "<|endoftext|>";

/** A Hugging Face `tokenizer.json` of the model. */
export function tokenizerJson(model: BpeModel): object {
  const tokens = [...model.tokens, END_OF_TEXT];
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{ id: tokens.length - 1, content: END_OF_TEXT, ...flags, special: true }],
    normalizer: null,
    pre_tokenizer: { ...byteLevel, use_regex: true },
    post_processor: null,
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: model.merges.map((pair) => pair.join(" ")),
    },
  };
}

/** The `tokenizer_config.json` beside it. */
export function tokenizerConfigJson(): object {
  return {
    tokenizer_class: "GPT2Tokenizer",
    add_prefix_space: false,
    // The libraries' default drops spaces before punctuation when decoding.
    clean_up_tokenization_spaces: false,
    bos_token: END_OF_TEXT,
    eos_token: END_OF_TEXT,
    unk_token: END_OF_TEXT,
  };
}

interface Word {
  ids: readonly number[];
  readonly count: number;
}

interface Pair {
  readonly left: number;
  readonly right: number;
  count: number;
  /** Positions of the words that hold it. */
  readonly words: Set<number>;
}

/** By `left * PAIR_BASE + right`: a number key is several times faster than a string. */
type PairTable = Map<number, Pair>;
const PAIR_BASE = 2 ** 24;

/** Ids of the byte tokens follow the order of their symbols, as in GPT-2's vocabulary. */
const BASE_TOKENS = [...BYTE_SYMBOLS].sort((a, b) => a.charCodeAt(0) - b.charCodeAt(0));
const BASE_ID_OF_BYTE = BYTE_SYMBOLS.map((symbol) => BASE_TOKENS.indexOf(symbol));

function byteSymbols(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
    return String.fromCharCode(visible ? byte : next++);
  });
}

function countWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.matchAll(GPT2_PIECES)) {
      counts.set(piece, (counts.get(piece) ?? 0) + 1);
    }
  }
  return [...counts].map(([piece, count]) => ({
    ids: [...Buffer.from(piece, "utf8")].map((byte) => BASE_ID_OF_BYTE[byte] as number),
    count,
  }));
}

/** Adds (`sign` 1) or takes away (-1) the pairs of one word. */
function countPairs(pairs: PairTable, word: Word, index: number, sign: 1 | -1): void {
  for (let i = 0; i + 1 < word.ids.length; i++) {
    const left = word.ids[i] as number;
    const right = word.ids[i + 1] as number;
    const key = left * PAIR_BASE + right;
    let pair = pairs.get(key);
    if (pair === undefined) {
      pair = { left, right, count: 0, words: new Set() };
      pairs.set(key, pair);
    }
    pair.count += sign * word.count;
    if (sign === 1) {
      pair.words.add(index);
    } else {
      pair.words.delete(index);
    }
    if (pair.count === 0) {
      pairs.delete(key);
    }
  }
}

function mostFrequent(pairs: PairTable): Pair | undefined {
  let best: Pair | undefined;
  for (const pair of pairs.values()) {
    if (best === undefined || isBefore(pair, best)) {
      best = pair;
    }
  }
  return best;
}

function isBefore(a: Pair, b: Pair): boolean {
  if (a.count !== b.count) {
    return a.count > b.count;
  }
  return a.left === b.left ? a.right < b.right : a.left < b.left;
}

function mergePair(ids: readonly number[], pair: Pair, merged: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    const hit = ids[i] === pair.left && ids[i + 1] === pair.right;
    result.push(hit ? merged : (ids[i] as number));
    i += hit ? 1 : 0;
  }
  return result;
}
