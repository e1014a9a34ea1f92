// Low-rank adapters (Hu et al. 2021, LoRA): which modules carry one, their names and shapes, and their start.
import { runtimeErrors } from "../errors.ts";
import { randomStream } from "../random.ts";
import { type Float32Tensor, float32, type Parameters } from "../tensor.ts";
import type { ModelConfig } from "./config.ts";
import { linearModules } from "./families.ts";
import type { LinearModule } from "./family.ts";

/** Settings of the adapters, in PEFT's words. */
export interface LoraSettings {
  readonly rank: number;
  /** The product of the two factors counts `loraScale` times. */
  readonly alpha: number;
  /** Module names, matched at the end of a module's path: `c_attn`, `mlp.c_fc`, ...; `all-linear` is every linear layer. */
  readonly targets: readonly string[];
  /** Probability that training drops an input of factor A; 0 when left out. */
  readonly dropout?: number;
  /** Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732): alpha / sqrt(rank). */
  readonly rsLora?: boolean;
  /** Whether A stays at its start (FFA-LoRA: Sun et al. 2024, arXiv 2403.12313): steps give it no gradient, optimizers leave it alone. */
  readonly freezesA?: boolean;
  /** Blocks that carry adapters (PEFT's `layers_to_transform`); all when left out. */
  readonly layers?: readonly number[];
}

/** PEFT's target that stands for every linear layer of the blocks. */
export const allLinear = "all-linear";

/** How often the product of the two factors counts: alpha / rank, or alpha / sqrt(rank) with `rsLora`. */
export function loraScale({ alpha, rank, rsLora = false }: LoraSettings): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** What the model's last hidden state is used for. */
export type HeadSettings =
  | { readonly kind: "classification"; readonly classes: number }
  | { readonly kind: "lm" };

/** Name of the task head's weight, [classes, hidden]. */
export const headParameter = "base_model.model.score.weight";

/** PEFT's name of a factor: A is [rank, in], B is [out, rank]. */
export function loraName(module: LinearModule, factor: "A" | "B"): string {
  return `base_model.model.${module.checkpointPath}.lora_${factor}.weight`;
}

/** Whether training moves a parameter of that name. */
export function isTrainable(
  { freezesA = false }: Pick<LoraSettings, "freezesA">,
  name: string,
): boolean {
  return !(freezesA && name.endsWith(".lora_A.weight"));
}

/** Name of the graph input with the dropout mask of a layer's adapter, [tokens, in]. */
export function dropoutMaskName(module: LinearModule): string {
  return loraName(module, "A").replace(/lora_A\.weight$/, maskSuffix);
}

/** Whether a graph input is a dropout mask. */
export function isDropoutMask(name: string): boolean {
  return name.endsWith(`.${maskSuffix}`);
}

const maskSuffix = "lora_dropout";

/** The layers that `settings` targets; throws `ADAPTER_INVALID` when a target or a block matches none. */
export function targetedModules(
  config: ModelConfig,
  settings: LoraSettings,
): readonly LinearModule[] {
  const modules = linearModules(config);
  const { targets, layers } = settings;
  checkTargets(modules, targets);
  checkLayers(config, layers ?? []);
  return modules.filter(
    (module) =>
      targets.some((target) => isTargeted(module, target)) &&
      (layers === undefined || layers.includes(module.block)),
  );
}

/** The layers that PEFT targets when nobody names any: GPT-2's joint projection, else those of queries and values. */
export function defaultTargets(config: ModelConfig): readonly string[] {
  const names = new Set(linearModules(config).map(({ path }) => path.split(".").at(-1)));
  return ["c_attn", "q_proj", "v_proj"].filter((name) => names.has(name));
}

/** Shapes of the trainable parameters of blocks [from, to), with the task head when `to` is the last and `head` is not false. */
export function parameterShapes(
  config: ModelConfig,
  lora: LoraSettings,
  head: HeadSettings,
  blocks: { readonly from: number; readonly to: number; readonly head?: boolean } = {
    from: 0,
    to: config.layers,
  },
): ReadonlyMap<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const module of targetedModules(config, lora)) {
    if (module.block < blocks.from || module.block >= blocks.to) continue;
    shapes.set(loraName(module, "A"), [lora.rank, module.inSize]);
    shapes.set(loraName(module, "B"), [module.outSize, lora.rank]);
  }
  const hasHead = blocks.head !== false && blocks.to === config.layers;
  if (head.kind === "classification" && hasHead) {
    shapes.set(headParameter, [head.classes, config.hiddenSize]);
  }
  return shapes;
}

/**
 * Parameters before any training: A uniform in +-1/sqrt(in) (PEFT's Kaiming start with a = sqrt(5)), B
 * zero, the head normal with deviation 0.02. Equal seeds give equal bytes.
 */
export function initialParameters(
  config: ModelConfig,
  lora: LoraSettings,
  head: HeadSettings,
  seed: number,
): Parameters {
  const result = new Map<string, Float32Tensor>();
  for (const [name, shape] of parameterShapes(config, lora, head)) {
    const random = randomStream(seed, "initial", name);
    const bound = 1 / Math.sqrt(shape[1] as number);
    const draw =
      name === headParameter ? () => 0.02 * random.normal() : () => bound * (2 * random.next() - 1);
    const zero = name.endsWith("lora_B.weight");
    result.set(
      name,
      float32(
        shape,
        float32(shape).data.map(() => (zero ? 0 : draw())),
      ),
    );
  }
  return result;
}

function isTargeted(module: LinearModule, target: string): boolean {
  return target === allLinear || `.${module.path}`.endsWith(`.${target}`);
}

function checkTargets(modules: readonly LinearModule[], targets: readonly string[]): void {
  for (const target of targets) {
    if (modules.some((module) => isTargeted(module, target))) continue;
    const known = new Set(modules.map((module) => module.path.split(".").slice(2).join(".")));
    throw runtimeErrors.error("ADAPTER_INVALID", `no layer of the model is called "${target}"`, {
      hint: `Targets of this model: ${[...known, allLinear].join(", ")}.`,
    });
  }
}

function checkLayers({ layers }: ModelConfig, wanted: readonly number[]): void {
  const absent = wanted.find((block) => block >= layers);
  if (absent === undefined) return;
  throw runtimeErrors.error(
    "ADAPTER_INVALID",
    `the adapter's layers name block ${absent}, the model has blocks 0 to ${layers - 1}`,
    { hint: "Name blocks of the model, counted from 0." },
  );
}
