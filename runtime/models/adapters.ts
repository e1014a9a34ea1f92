// Adapters in the PEFT format: adapter_config.json and adapter_model.safetensors, names as PEFT saves them
// (adapter name stripped). What PEFT has no field for (ordered labels, hash of the base model) lies beside
// them in trifold.json. https://huggingface.co/docs/peft/developer_guides/checkpoint
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { runtimeErrors, TrifoldError } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type Float32Tensor, type Parameters, sameShape } from "../tensor.ts";
import type { ModelConfig } from "./config.ts";
import { areStoredInOut } from "./families.ts";
import { readJsonFile } from "./json-file.ts";
import {
  allLinear,
  type HeadSettings,
  headParameter,
  type LoraSettings,
  parameterShapes,
} from "./lora.ts";
import { checkFinite } from "./model-folder.ts";
import { readSafetensors } from "./safetensors.ts";
import { writeSafetensors } from "./safetensors-writer.ts";

/** A trained adapter with its task head. */
export interface Adapter {
  readonly lora: LoraSettings;
  readonly head: HeadSettings;
  /** By PEFT name: `base_model.model.<checkpoint path>.lora_A.weight`, `base_model.model.score.weight`. */
  readonly parameters: Parameters;
  /** Ordered: the class index is the position. Absent in adapters that PEFT made. */
  readonly labels?: readonly string[];
  /** Name or path of the base model, for people and for PEFT. */
  readonly baseModelName: string;
  /** `BaseModel.sha256` of the model it was trained on. Absent in adapters that PEFT made. */
  readonly baseModelSha256?: string;
}

/** Writes an adapter folder that PEFT and `loadAdapter` read; equal adapters give equal bytes. */
export async function saveAdapter(folder: string, adapter: Adapter): Promise<void> {
  const { labels, baseModelSha256, head, parameters } = adapter;
  const classes = head.kind === "classification" ? head.classes : 0;
  if (labels !== undefined && labels.length !== classes) {
    throw invalid(`${folder}: ${labels.length} labels are given, the head has ${classes} classes`);
  }
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, weightsName), parameters, { metadata: { format: "pt" } });
  await writeJson(join(folder, factsName), { format: 1, labels, baseModelSha256 });
  await writeJson(join(folder, configName), peftConfig(adapter));
}

/** Reads an adapter folder, PEFT's or ours; throws `ADAPTER_INVALID` for settings that we do not compute. */
export async function loadAdapter(folder: string): Promise<Adapter> {
  const configFile = join(folder, configName);
  const config = parse(configFile, configSchema, await readJsonFile(configFile, failure));
  refuseOtherSettings(configFile, config);
  const factsFile = join(folder, factsName);
  const facts = existsSync(factsFile)
    ? parse(factsFile, factsSchema, await readJsonFile(factsFile, failure))
    : {};
  const parameters = await readParameters(join(folder, weightsName));
  const head = headOf(folder, parameters, config.task_type, facts.labels);
  return {
    lora: loraOf(config),
    head,
    parameters,
    baseModelName: config.base_model_name_or_path ?? "",
    ...(facts.labels === undefined ? {} : { labels: facts.labels }),
    ...(facts.baseModelSha256 === undefined ? {} : { baseModelSha256: facts.baseModelSha256 }),
  };
}

/** Throws `ADAPTER_INVALID` unless the adapter holds exactly the parameters that fit a model of that configuration. */
export function checkAdapterFits(adapter: Adapter, config: ModelConfig): void {
  const { head, lora, parameters } = adapter;
  const shapes = parameterShapes(config, lora, head);
  for (const [name, expected] of shapes) {
    const actual = parameters.get(name)?.shape;
    if (actual !== undefined && sameShape(actual, expected)) continue;
    const found = actual === undefined ? "is missing" : `has shape [${actual.join(", ")}]`;
    throw invalid(`adapter tensor ${name} ${found}, the model takes [${expected.join(", ")}]`);
  }
  for (const name of parameters.keys()) {
    if (!shapes.has(name)) throw invalid(`adapter tensor ${name} has no place in the model`);
  }
}

const configName = "adapter_config.json";
const weightsName = "adapter_model.safetensors";
const factsName = "trifold.json";

const failure = {
  code: "ADAPTER_INVALID",
  hint: "Give a folder with adapter_config.json and adapter_model.safetensors of a LoRA adapter.",
} as const;

const configSchema = z.looseObject({
  peft_type: z.string(),
  task_type: z.enum(["SEQ_CLS", "CAUSAL_LM"]),
  r: z.int().min(1).max(65_536),
  lora_alpha: z.number().positive(),
  // Another text would be a regular expression of Python's.
  target_modules: z.union([z.literal(allLinear), z.array(z.string().min(1)).min(1)], {
    error: `expected a list of names or "${allLinear}"`,
  }),
  lora_dropout: z.number().min(0).lt(1).nullish(),
  use_rslora: z.boolean().nullish(),
  layers_to_transform: z.union([z.int().min(0), z.array(z.int().min(0)).min(1)]).nullish(),
  base_model_name_or_path: z.string().nullish(),
});

const factsSchema = z.object({
  labels: z.array(z.string()).optional(),
  baseModelSha256: z.string().optional(),
});

/** PEFT settings that change the numbers, with the values that we compute; the first is PEFT's default. */
const computedValues: Readonly<Record<string, readonly unknown[]>> = {
  peft_type: ["LORA"],
  bias: ["none"],
  use_dora: [false],
  lora_bias: [false],
  layer_replication: [null],
  exclude_modules: [null],
  target_parameters: [null],
  trainable_token_indices: [null],
  // The other starts (PiSSA, OLoRA, LoftQ, ...) change the base weights.
  init_lora_weights: [true, false, "gaussian", "orthogonal", "eva"],
};

/** The fields that every PEFT release since 0.3 knows; older ones refuse those that they do not. */
function peftConfig({
  lora,
  head,
  parameters,
  baseModelName,
}: Adapter): Readonly<Record<string, unknown>> {
  return {
    auto_mapping: null,
    base_model_name_or_path: baseModelName,
    bias: "none",
    // GPT-2's Conv1D stores weights [in, out].
    fan_in_fan_out: areStoredInOut([...parameters.keys()]),
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: lora.layers ?? null,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout ?? 0,
    modules_to_save: head.kind === "classification" ? ["score"] : null,
    peft_type: "LORA",
    r: lora.rank,
    revision: null,
    // PEFT takes the word only by itself: in a list it would be the name of a layer.
    target_modules: lora.targets.includes(allLinear) ? allLinear : lora.targets,
    task_type: head.kind === "classification" ? "SEQ_CLS" : "CAUSAL_LM",
    ...(lora.rsLora ? { use_rslora: true } : {}),
  };
}

/** Settings that have PEFT's defaults are left out. */
function loraOf(config: z.infer<typeof configSchema>): LoraSettings {
  const { target_modules: targets, lora_dropout: dropout, layers_to_transform: layers } = config;
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    targets: typeof targets === "string" ? [targets] : targets,
    ...(dropout ? { dropout } : {}),
    ...(config.use_rslora ? { rsLora: true } : {}),
    ...(layers == null ? {} : { layers: typeof layers === "number" ? [layers] : layers }),
  };
}

function refuseOtherSettings(file: string, config: z.infer<typeof configSchema>): void {
  const fields = new Map(Object.entries(config));
  for (const [field, values] of Object.entries(computedValues)) {
    const value = fields.get(field) ?? values[0];
    if (values.includes(value)) continue;
    const expected = values.map((known) => JSON.stringify(known)).join(" or ");
    throw invalid(`${file}: ${field} is ${JSON.stringify(value)}, expected ${expected}`);
  }
  for (const field of ["rank_pattern", "alpha_pattern"]) {
    if (Object.keys(fields.get(field) ?? {}).length === 0) continue;
    throw invalid(`${file}: ${field} gives layers values of their own, expected one for all`);
  }
}

async function readParameters(file: string): Promise<Parameters> {
  try {
    const source = await readSafetensors(file);
    const parameters = new Map<string, Float32Tensor>();
    for (const name of [...source.tensors.keys()].sort()) {
      const tensor = await source.readFloat32(name);
      checkFinite(tensor, `${file}: tensor ${name}`);
      parameters.set(name, tensor);
    }
    return parameters;
  } catch (cause) {
    if (!(cause instanceof TrifoldError)) throw cause;
    throw runtimeErrors.error(failure.code, cause.message, { cause, hint: failure.hint });
  }
}

/** The head that the file holds, which task type and labels must agree with. */
function headOf(
  folder: string,
  parameters: Parameters,
  taskType: "SEQ_CLS" | "CAUSAL_LM",
  labels: readonly string[] | undefined,
): HeadSettings {
  const score = parameters.get(headParameter);
  if (taskType === "CAUSAL_LM") {
    if (score === undefined) return { kind: "lm" };
    throw invalid(`${folder}: task_type is CAUSAL_LM, but the adapter holds ${headParameter}`);
  }
  const classes = score?.shape[0];
  if (classes === undefined) {
    throw invalid(`${folder}: task_type is SEQ_CLS, but the adapter lacks ${headParameter}`);
  }
  if (labels !== undefined && labels.length !== classes) {
    throw invalid(`${folder}: ${factsName} lists ${labels.length} labels, the head has ${classes}`);
  }
  return { kind: "classification", classes };
}

function parse<T>(file: string, schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
  throw invalid(`${file}: ${faults.join("; ")}`);
}

async function writeJson(file: string, value: unknown): Promise<void> {
  await writeFileAtomic(file, `${JSON.stringify(value, undefined, 2)}\n`);
}

function invalid(message: string): TrifoldError {
  return runtimeErrors.error(failure.code, message, { hint: failure.hint });
}
