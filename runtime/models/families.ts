// The families that Trifold computes, and what follows from a family's description alone.
import type { Value } from "../graph/ir.ts";
import { randomStream } from "../random.ts";
import { type Float32Tensor, float32, type TensorBundle } from "../tensor.ts";
import type { ModelConfig } from "./config.ts";
import type { LinearModule, ModelFamily } from "./family.ts";
import { gpt2Family } from "./gpt2.ts";
import { type LlamaShared, llamaFamily } from "./llama.ts";

type FamilyName = ModelConfig["family"];
type ConfigOf<Name extends FamilyName> = Extract<ModelConfig, { readonly family: Name }>;

/** What the blocks of each family share. */
interface SharedOf {
  readonly gpt2: Value;
  readonly llama: LlamaShared;
}

const families: { readonly [Name in FamilyName]: ModelFamily<ConfigOf<Name>, SharedOf[Name]> } = {
  gpt2: gpt2Family,
  llama: llamaFamily,
};

/** The family of a configuration. */
export function familyOf(config: ModelConfig): ModelFamily {
  // The configuration names its family; a union of families cannot show the compiler that both match.
  return families[config.family] as unknown as ModelFamily;
}

/** Shape of every tensor of a model by checkpoint name without the family's prefix. */
export function tensorShapes(config: ModelConfig): ReadonlyMap<string, readonly number[]> {
  return familyOf(config).tensorShapes(config);
}

/** Every linear layer of a model's blocks, in order. */
export function linearModules(config: ModelConfig): readonly LinearModule[] {
  const family = familyOf(config);
  const linears = Object.entries(family.blockLinears(config));
  return Array.from({ length: config.layers }, (_, block) =>
    linears.map(([name, [inSize, outSize]]) => {
      const path = `${family.blockPath(block)}.${name}`;
      return { path, checkpointPath: `${family.prefix}${path}`, block, inSize, outSize };
    }),
  ).flat();
}

/** Whether adapters of these names lie on linear weights that are stored [in, out], as PEFT wants to know. */
export function areStoredInOut(parameterNames: readonly string[]): boolean {
  return Object.values(families).some(
    ({ linearLayout, prefix }) =>
      linearLayout === "in-out" &&
      parameterNames.some((name) => name.startsWith(`base_model.model.${prefix}`)),
  );
}

/** Weights before any training, as the family's own code draws them. Equal seeds give equal bytes. */
export function randomTensors(config: ModelConfig, seed: number): TensorBundle<Float32Tensor> {
  const family = familyOf(config);
  const tensors = new Map<string, Float32Tensor>();
  for (const [name, shape] of family.tensorShapes(config)) {
    const tensor = float32(shape);
    const initial = family.initialValues(config, name);
    if (initial.kind === "constant") tensor.data.fill(initial.value);
    else {
      const stream = randomStream(config.family, seed, name);
      for (let i = 0; i < tensor.data.length; i++) {
        tensor.data[i] = initial.deviation * stream.normal();
      }
    }
    tensors.set(name, tensor);
  }
  return tensors;
}
