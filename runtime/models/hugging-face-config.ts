// Hugging Face's config.json of GPT-2, parsed into the fields that shape the numbers and written back.
// Whatever would change the numbers in a way that we do not compute is refused by name.
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import type { Gpt2Config } from "./config.ts";

/** The configuration in a parsed config.json; `file` is named in errors. Throws `MODEL_FOLDER_INVALID` or `MODEL_UNSUPPORTED`. */
export function parseHuggingFaceConfig(json: unknown, file: string): Gpt2Config {
  refuseOtherModels(json, file);
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const faults = parsed.error.issues.map(
      (issue) => `${issue.path.join(".") || "the document"}: ${issue.message}`,
    );
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file}: ${faults.join("; ")}`, {
      hint: "Use the config.json that belongs to the weights.",
    });
  }
  const fields = parsed.data;
  if (fields.n_embd % fields.n_head !== 0) {
    throw unsupported(file, "n_embd", fields.n_embd, `a multiple of n_head ${fields.n_head}`);
  }
  return {
    family: "gpt2",
    vocabSize: fields.vocab_size,
    positions: fields.n_positions,
    hiddenSize: fields.n_embd,
    layers: fields.n_layer,
    heads: fields.n_head,
    innerSize: fields.n_inner ?? 4 * fields.n_embd,
    layerNormEpsilon: fields.layer_norm_epsilon,
    padTokenId: padTokenId(fields),
  };
}

/** The fields of a config.json that Hugging Face's `GPT2Config` reads back to the same numbers. */
export function toHuggingFaceConfig(
  config: Gpt2Config,
  { float16 = false }: { readonly float16?: boolean } = {},
): Readonly<Record<string, unknown>> {
  return {
    activation_function: "gelu_new",
    architectures: ["GPT2LMHeadModel"],
    layer_norm_epsilon: config.layerNormEpsilon,
    model_type: "gpt2",
    n_ctx: config.positions,
    n_embd: config.hiddenSize,
    n_head: config.heads,
    n_inner: config.innerSize,
    n_layer: config.layers,
    n_positions: config.positions,
    pad_token_id: config.padTokenId,
    tie_word_embeddings: true,
    torch_dtype: float16 ? "float16" : "float32",
    vocab_size: config.vocabSize,
  };
}

/** Far above any model, so that no size computed from them overflows. */
const size = (limit: number) => z.int().min(1).max(limit);

const schema = z.looseObject({
  vocab_size: size(10_000_000),
  n_positions: size(10_000_000),
  n_embd: size(1_000_000),
  n_layer: size(10_000),
  n_head: size(10_000),
  n_inner: size(10_000_000).nullish(),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  pad_token_id: z.int().nullish(),
  eos_token_id: z.union([z.int(), z.array(z.int())]).nullish(),
});

/** Settings that change the numbers, with the values that we compute (the first is Hugging Face's default). */
const computedValues: Readonly<Record<string, readonly unknown[]>> = {
  activation_function: ["gelu_new", "gelu_pytorch_tanh"],
  scale_attn_weights: [true],
  scale_attn_by_inverse_layer_idx: [false],
  reorder_and_upcast_attn: [false],
  add_cross_attention: [false],
  tie_word_embeddings: [true],
  quantization_config: [null],
};

/** Before the fields are looked at, because another architecture has others. */
function refuseOtherModels(json: unknown, file: string): void {
  const record = z.record(z.string(), z.unknown()).safeParse(json);
  if (!record.success) {
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} is not a JSON object`);
  }
  const fields = new Map(Object.entries(record.data));
  const modelType = fields.get("model_type");
  if (modelType !== "gpt2") throw unsupported(file, "model_type", modelType, '"gpt2"');
  for (const [field, values] of Object.entries(computedValues)) {
    const value = fields.get(field) ?? values[0];
    if (values.includes(value)) continue;
    throw unsupported(
      file,
      field,
      value,
      values.map((known) => JSON.stringify(known)).join(" or "),
    );
  }
}

/** The first declared id that the vocabulary holds: small models often keep GPT-2's 50,256. */
function padTokenId(fields: z.infer<typeof schema>): number {
  const { pad_token_id: pad, eos_token_id: eos } = fields;
  const candidates = [pad, ...(Array.isArray(eos) ? eos : [eos]), 0];
  const isHeld = (id: number | null | undefined) =>
    typeof id === "number" && id >= 0 && id < fields.vocab_size;
  return candidates.find(isHeld) ?? 0;
}

function unsupported(file: string, field: string, value: unknown, expected: string) {
  const actual = value === undefined ? "absent" : JSON.stringify(value).slice(0, 200);
  return runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `${file}: ${field} is ${actual}, expected ${expected}`,
    { hint: "Trifold computes GPT-2 models with tied embeddings in their usual form." },
  );
}
