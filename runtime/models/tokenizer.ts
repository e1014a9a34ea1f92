// The tokenizer that belongs to a model folder, by Hugging Face's own library for tokenizer.json.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { readJsonFile } from "./json-file.ts";

/** Text to token ids and back. */
export interface Tokenizer {
  /** One above the largest id. */
  readonly vocabSize: number;
  /** Token ids of a text; no special token is added. Like Hugging Face's, BPE without an unknown token skips what it lacks. */
  encode(text: string): number[];
  /** The text of token ids, special tokens included. */
  decode(ids: readonly number[]): string;
  /** Equal for tokenizers that give equal ids; of the parsed files, so white space and key order do not count. */
  readonly sha256: string;
}

/** Opens tokenizer.json of a model folder, with the settings of tokenizer_config.json where there is one. Throws `TOKENIZER_INVALID`. */
export async function openTokenizer(folder: string): Promise<Tokenizer> {
  const file = join(folder, "tokenizer.json");
  const json = await readJsonFile(file, failure);
  const settings = await readSettings(join(folder, "tokenizer_config.json"));
  const inner = create(file, json, settings);
  const vocabSize = inner.model?.vocab.length ?? 0;
  const decodeOptions = {
    clean_up_tokenization_spaces: settings.clean_up_tokenization_spaces ?? false,
  };
  return {
    vocabSize,
    encode: (text) =>
      checkIds(inner.encode(text, { add_special_tokens: false }).ids, file, vocabSize),
    decode: (ids) =>
      // The library refuses an empty list.
      ids.length === 0 ? "" : inner.decode(checkIds([...ids], file, vocabSize), decodeOptions),
    sha256: hashOf(json, settings),
  };
}

const failure = {
  code: "TOKENIZER_INVALID",
  hint: "Use the tokenizer.json that belongs to the model.",
} as const;

const settingsSchema = z.looseObject({
  clean_up_tokenization_spaces: z.boolean().nullish(),
  remove_space: z.boolean().nullish(),
  do_lowercase_and_remove_accent: z.boolean().nullish(),
});
type Settings = z.infer<typeof settingsSchema>;

async function readSettings(file: string): Promise<Settings> {
  if (!existsSync(file)) return {};
  const parsed = settingsSchema.safeParse(await readJsonFile(file, failure));
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw runtimeErrors.error(failure.code, `${file}: ${faults.join("; ")}`, { hint: failure.hint });
}

function create(file: string, json: unknown, settings: Settings): HuggingFaceTokenizer {
  try {
    return new HuggingFaceTokenizer(json as object, settings);
  } catch (cause) {
    // The library checks little by itself; whatever its parts throw means a file that is none.
    throw runtimeErrors.error(failure.code, `${file} is not a tokenizer that can be used`, {
      cause,
      hint: failure.hint,
    });
  }
}

/** A vocabulary without an unknown token gives no id for what it lacks, and foreign ids have no text. */
function checkIds(ids: number[], file: string, vocabSize: number): number[] {
  for (const id of ids) {
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw runtimeErrors.error(
      failure.code,
      `${file}: ${id === undefined ? "a part of a text has no token" : `there is no token ${id}`}, ids go from 0 to ${vocabSize - 1}`,
      { hint: failure.hint },
    );
  }
  return ids;
}

function hashOf(json: unknown, settings: Settings): string {
  // Neither truncation nor padding is applied: batches cut and pad by themselves.
  const { truncation: _, padding: __, ...rules } = json as Record<string, unknown>;
  const { remove_space: removeSpace, do_lowercase_and_remove_accent: lowercase } = settings;
  return createHash("sha256")
    .update(canonical([rules, removeSpace ?? false, lowercase ?? false]))
    .digest("hex");
}

/** JSON with sorted keys. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === "object" && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}
