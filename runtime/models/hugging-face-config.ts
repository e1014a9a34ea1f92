// Hugging Face's config.json, parsed into the fields that shape the numbers and written back: the table of the
// model types that Trifold computes.
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";
import type { ModelConfig } from "./config.ts";
import { type ConfigSource, unsupported } from "./config-fields.ts";
import { parseGpt2Config, writeGpt2Config } from "./gpt2-config.ts";
import { parseLlamaConfig, writeLlamaConfig } from "./llama-config.ts";

/** The configuration in a parsed config.json; `file` is named in errors. Throws `MODEL_FOLDER_INVALID` or `MODEL_UNSUPPORTED`. */
export function parseHuggingFaceConfig(json: unknown, file: string): ModelConfig {
  const record = z.record(z.string(), z.unknown()).safeParse(json);
  if (!record.success) {
    throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file} is not a JSON object`);
  }
  const fields = record.data;
  const modelType = fields["model_type"];
  const parse = typeof modelType === "string" ? parsers.get(modelType) : undefined;
  if (parse === undefined) {
    const expected = [...parsers.keys()].map((name) => JSON.stringify(name)).join(" or ");
    throw unsupported(file, "model_type", { value: modelType, expected });
  }
  return parse({ file, fields });
}

/** The fields of a config.json that Hugging Face's classes read back to the same numbers. */
export function toHuggingFaceConfig(
  config: ModelConfig,
  { float16 = false }: { readonly float16?: boolean } = {},
): Readonly<Record<string, unknown>> {
  const fields = config.family === "gpt2" ? writeGpt2Config(config) : writeLlamaConfig(config);
  return { ...fields, torch_dtype: float16 ? "float16" : "float32" };
}

const parsers: ReadonlyMap<string, (source: ConfigSource) => ModelConfig> = new Map<
  string,
  (source: ConfigSource) => ModelConfig
>([
  ["gpt2", parseGpt2Config],
  ...(["llama", "mistral", "qwen2", "qwen3"] as const).map(
    (modelType) =>
      [modelType, (source: ConfigSource) => parseLlamaConfig(source, modelType)] as const,
  ),
]);
