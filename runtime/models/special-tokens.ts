// Which tokens begin and end a text, as the files of a Hugging Face model folder say.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import { readJsonFile } from "./json-file.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The special tokens of a model. */
export interface SpecialTokens {
  /** Begins a text. */
  readonly begin?: number;
  /** Whether every text begins with it (`add_bos_token`). */
  readonly addsBegin: boolean;
  /** Any of them ends a text. */
  readonly end: readonly number[];
}

/**
 * Reads the ids of `generation_config.json` where there is one, else of `config.json`, else the names in
 * `tokenizer_config.json`. Throws `MODEL_FOLDER_INVALID`.
 */
export async function readSpecialTokens(
  folder: string,
  tokenizer: Pick<Tokenizer, "encode">,
): Promise<SpecialTokens> {
  const config = await read(join(folder, "config.json"));
  const generation = await read(join(folder, "generation_config.json"));
  const names = await read(join(folder, "tokenizer_config.json"));
  const begin =
    generation.bos_token_id ?? config.bos_token_id ?? idOf(names.bos_token, tokenizer) ?? undefined;
  const end =
    generation.eos_token_id ?? config.eos_token_id ?? idOf(names.eos_token, tokenizer) ?? [];
  return {
    ...(begin === undefined ? {} : { begin }),
    addsBegin: names.add_bos_token === true && begin !== undefined,
    end: typeof end === "number" ? [end] : end,
  };
}

/** A name that the tokenizer makes one token of. */
function idOf(
  name: z.infer<typeof tokenName>,
  { encode }: Pick<Tokenizer, "encode">,
): number | undefined {
  const content = typeof name === "string" ? name : name?.content;
  const ids = content === undefined ? [] : encode(content);
  return ids.length === 1 ? ids[0] : undefined;
}

const tokenId = z.int().nonnegative();
const tokenName = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();
const schema = z.looseObject({
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  add_bos_token: z.boolean().nullish(),
  bos_token: tokenName,
  eos_token: tokenName,
});

const failure = {
  code: "MODEL_FOLDER_INVALID",
  hint: "Use the files that belong to the model.",
} as const;

async function read(file: string): Promise<z.infer<typeof schema>> {
  if (!existsSync(file)) return {};
  const parsed = schema.safeParse(await readJsonFile(file, failure));
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw runtimeErrors.error(failure.code, `${file}: ${faults.join("; ")}`, { hint: failure.hint });
}
