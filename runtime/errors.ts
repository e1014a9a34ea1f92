// The one error class of Trifold and the catalogues of its codes. A folder that can fail owns a
// catalogue (`defineErrors`); docs/errors.md lists them all and a test holds both equal.

/** An error with a catalogue code, a text for the operator and a hint what to do. Never holds private data. */
export class TrifoldError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, options: FailureOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "TrifoldError";
    this.code = code;
    this.hint = options.hint;
  }
}

/** What an error may carry beside its text. */
export interface FailureOptions {
  /** What the operator can do about it. */
  readonly hint?: string;
  /** The error that led to this one. */
  readonly cause?: unknown;
}

/** A folder's codes with their meaning, and the function that makes an error of one of them. */
export interface ErrorCatalogue<Code extends string> {
  readonly meanings: Readonly<Record<Code, string>>;
  readonly error: (code: Code, message: string, options?: FailureOptions) => TrifoldError;
}

/** Declares a folder's error codes; only declared codes compile. */
export function defineErrors<const Meanings extends Readonly<Record<string, string>>>(
  meanings: Meanings,
): ErrorCatalogue<Extract<keyof Meanings, string>> {
  return {
    meanings,
    error: (code, message, options) => new TrifoldError(code, message, options),
  };
}

/** Codes of `runtime/`. */
export const runtimeErrors = defineErrors({
  GRAPH_INVALID: "A graph was built from values whose shapes or types do not fit the operator.",
  GRADIENT_UNDEFINED: "A gradient was asked of an operator that has none.",
  SESSION_FAILED: "ONNX Runtime refused to load or run a graph.",
  SESSION_FEED_INVALID:
    "A fed tensor is missing, unknown, or of another shape or type than declared.",
  MODEL_FOLDER_INVALID: "The model folder lacks a file or holds one that cannot be read.",
  MODEL_UNSUPPORTED: "The model has an architecture or a setting that Trifold does not compute.",
  MODEL_TENSOR_MISSING: "The weights lack a tensor that the configuration implies.",
  MODEL_TENSOR_SHAPE: "A tensor of the weights has another shape than the configuration implies.",
  MODEL_TENSOR_INVALID: "A tensor holds values that are not finite, or is of an unsupported type.",
  MODEL_FILE_TRUNCATED: "A weights file ends before its header says it does.",
  MODEL_OUT_EXISTS: "The folder that a model should be written to holds something already.",
  WEIGHTS_WRITE_FAILED: "A model's float32 weights cannot be written, as when the disk is full.",
  TOKENIZER_INVALID: "tokenizer.json cannot be read.",
  ADAPTER_INVALID: "The adapter folder does not fit the model or is not in the PEFT format.",
  DATA_FILE_INVALID: "The data file is missing or is not a CSV table.",
  DATA_COLUMN_MISSING: "The data file has no column of that name.",
  DATA_LABEL_UNKNOWN: "A row carries a label that is not in the ordered label list.",
  DATA_TEXT_EMPTY: "A row has no text.",
  DATA_EMPTY: "The data file has no rows.",
  MEMORY_BUDGET_TOO_SMALL: "No way to execute the model fits the memory budget.",
  CACHE_FOLDER_UNUSABLE: "A folder for a cache of activations cannot be made or written.",
  TRAINING_DIVERGED: "Loss or gradients stopped being finite.",
});
