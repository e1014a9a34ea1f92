// Codes of the programs: what a person asked for that cannot be done.
import { defineErrors } from "../runtime/index.ts";

/** Codes of `apps/`. */
export const appErrors = defineErrors({
  REFERENCE_INVALID:
    "The reference file lacks a field or a tensor, or holds one that does not fit.",
  MODEL_TOKENIZER_MISMATCH: "The tokenizer knows more tokens than the model has embeddings.",
  DATA_LABELS_UNUSABLE: "The data file has one label, or so many that its column holds no classes.",
  DATA_TEXTS_TOO_SHORT: "No text is long enough to predict anything in it.",
  CHECKPOINT_MISSING: "A training is to be resumed, but its folder holds no checkpoint.",
  CHECKPOINT_INVALID: "The checkpoint of a training cannot be read or does not fit it.",
  CHECKPOINT_MISMATCH: "A training is to be resumed with other settings, data or model.",
  OPTION_INVALID: "An option has a value that does not fit the model or the data.",
  BENCH_PROCESS_FAILED: "A measuring process ended without an answer.",
  SECRET_FILE_UNREADABLE: "A file with a password, certificate or key cannot be read.",
});
