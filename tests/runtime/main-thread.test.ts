// Native code of ONNX Runtime stays off the main thread, where it would stop everything else: neither a session nor the
// library itself is ever there. Seen at the one place through which native code comes into a thread, `process.dlopen`.
import { createRequire } from "node:module";
import t from "tap";
import {
  baseModelFromTensors,
  type Gpt2Config,
  initialParameters,
  loadPredictor,
  loadPrefixCachedStep,
  loadStep,
  type ModelSpec,
  makeBatch,
  ortEngine,
  parameterShapes,
  predictAll,
  probeProviders,
  randomTensors,
  train,
} from "../../runtime/index.ts";

const opened: string[] = [];
const { dlopen } = process;
process.dlopen = (module: object, file: string, ...rest: []) => {
  opened.push(file);
  return dlopen(module, file, ...rest);
};

t.test("training, evaluating and probing load no native code into the main thread", async (t) => {
  await everythingThatComputes(t.testdir());
  t.same([...opened, ...required()].filter(isOrt), [], "not on this thread");
  const { sharedObjects } = process.report.getReport() as unknown as Report;
  t.ok(sharedObjects.some(isOrt), "but on another one of this process");
  // What the lines above would see if it were otherwise.
  await import("onnxruntime-node");
  t.ok(opened.some(isOrt), "opened");
  t.ok(required().some(isOrt), "required");
});

interface Report {
  readonly sharedObjects: readonly string[];
}

function isOrt(file: string): boolean {
  return /onnxruntime[^/\\]*\.(node|so|dylib|dll)|onnxruntime-node/.test(file);
}

/** CommonJS modules that this thread has loaded; ESM imports of them are among these. */
function required(): readonly string[] {
  return Object.keys(createRequire(import.meta.url).cache);
}

async function everythingThatComputes(cacheFolder: string): Promise<void> {
  const config: Gpt2Config = {
    family: "gpt2",
    vocabSize: 31,
    positions: 8,
    hiddenSize: 16,
    layers: 2,
    heads: 2,
    innerSize: 64,
    layerNormEpsilon: 1e-5,
    padTokenId: 0,
  };
  const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });
  const head = { kind: "classification", classes: 2 } as const;
  const lora = { rank: 2, alpha: 4, targets: ["c_attn"] };
  const spec: ModelSpec = { model, lora, head, batch: 2, sequence: 8 };
  const shape = { batch: 2, sequence: 8, padTokenId: 0 };
  const examples = [0, 1].map((label) => ({ tokens: [label, 2, 3], label }));
  const initial = initialParameters(config, lora, head, 1);
  const batches = [makeBatch(examples, shape).feeds];
  const settings = { batches, rateAt: () => 1e-2, maxGradientNorm: 1 };
  const engine = ortEngine({ threads: 1 });
  await train({ step: await loadStep(engine, spec), initial, ...settings });
  const cached = await loadPrefixCachedStep(engine, spec, { from: 1, memoryBytes: 1e4 });
  const tail = parameterShapes(config, lora, head, { from: 1, to: 2 });
  const upper = new Map([...initial].filter(([name]) => tail.has(name)));
  await train({ step: cached, initial: upper, ...settings });
  await predictAll(await loadPredictor(engine, spec), initial, examples, shape);
  await probeProviders({ names: ["cpu"] });
  await engine.close();
}
