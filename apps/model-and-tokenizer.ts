// A model folder opened with the tokenizer that must belong to it.
import { type BaseModel, openBaseModel, openTokenizer, type Tokenizer } from "../runtime/index.ts";
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
  if (tokenizer.vocabSize > model.config.vocabSize) {
    throw appErrors.error(
      "MODEL_TOKENIZER_MISMATCH",
      `${folder}: the tokenizer has ${tokenizer.vocabSize} tokens, the model ${model.config.vocabSize} embeddings`,
      { hint: "Use the tokenizer.json that belongs to the model." },
    );
  }
  return { model, tokenizer };
}
