// A model folder opened with the tokenizer that must belong to it.
import {
  type BaseModel,
  type ModelConfig,
  openBaseModel,
  openTokenizer,
  type Tokenizer,
} from "../runtime/index.ts";
import { appErrors } from "./errors.ts";

/** A base model and its tokenizer. */
export interface ModelAndTokenizer {
  readonly model: BaseModel;
  readonly tokenizer: Tokenizer;
}

/** Opens both; throws `MODEL_TOKENIZER_MISMATCH` when a token could have no embedding. */
export async function openModelAndTokenizer(
  folder: string,
  cacheFolder: string,
): Promise<ModelAndTokenizer> {
  const model = await openBaseModel(folder, { cacheFolder });
  const tokenizer = await openTokenizer(folder);
  checkTokenizer(folder, tokenizer, model.config);
  return { model, tokenizer };
}

/** Throws `MODEL_TOKENIZER_MISMATCH` when a token of the folder's tokenizer has no embedding. */
export function checkTokenizer(folder: string, tokenizer: Tokenizer, config: ModelConfig): void {
  if (tokenizer.vocabSize <= config.vocabSize) return;
  throw appErrors.error(
    "MODEL_TOKENIZER_MISMATCH",
    `${folder}: the tokenizer has ${tokenizer.vocabSize} tokens, the model ${config.vocabSize} embeddings`,
    { hint: "Use the tokenizer.json that belongs to the model." },
  );
}
