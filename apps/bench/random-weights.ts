// GPT-2 124M with random weights, for measuring where no checkpoint lies.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type Float32Tensor,
  float32,
  type Gpt2Config,
  openBaseModel,
  randomStream,
  saveModelFolder,
  type TensorBundle,
  tensorShapes,
} from "../../runtime/index.ts";

/** A model folder and the cache that belongs to it. */
export interface ModelPlace {
  readonly model: string;
  readonly cacheFolder: string;
}

/** Where `writeRandomGpt2` puts a model below a folder of its own. */
export function randomGpt2Place(folder: string): ModelPlace {
  return { model: join(folder, "model"), cacheFolder: join(folder, "weights") };
}

/** Writes the model and its float32 weights into `folder`, 0.75 GB in all; half a minute on a small board. */
export async function writeRandomGpt2(folder: string): Promise<void> {
  const { model, cacheFolder } = randomGpt2Place(folder);
  await rm(folder, { recursive: true, force: true });
  await saveModelFolder(model, gpt2Small, randomWeights(), { float16: true });
  await openBaseModel(model, { cacheFolder });
}

/** The shapes of OpenAI's smallest GPT-2. */
const gpt2Small: Gpt2Config = {
  family: "gpt2",
  vocabSize: 50_257,
  positions: 1024,
  hiddenSize: 768,
  layers: 12,
  heads: 12,
  innerSize: 3072,
  layerNormEpsilon: 1e-5,
  padTokenId: 50_256,
};

/**
 * Normal numbers of GPT-2's deviation from one block read again and again: drawing 124 million would take a minute.
 * Each tensor starts elsewhere in it, because ONNX Runtime keeps only one of equal rearranged weights.
 */
function randomWeights(): TensorBundle<Float32Tensor> {
  const random = randomStream("bench weights");
  const block = Float32Array.from({ length: 2 ** 18 }, () => 0.02 * random.normal());
  const tensors = new Map<string, Float32Tensor>();
  for (const [name, shape] of tensorShapes(gpt2Small)) {
    const { data } = float32(shape);
    const first = block.subarray(random.below(block.length)).subarray(0, data.length);
    data.set(first);
    for (let start = first.length; start < data.length; start += block.length) {
      data.set(block.subarray(0, data.length - start), start);
    }
    tensors.set(name, { dtype: "float32", shape, data });
  }
  return tensors;
}
