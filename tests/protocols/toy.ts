// A task small enough to train in a test: a tiny random model that tells texts of low from texts of high tokens.
import type { Test } from "tap";
import { type Task, taskSchema } from "../../protocols/index.ts";
import {
  type BaseModel,
  baseModelFromTensors,
  type Engine,
  type Example,
  type Gpt2Config,
  type LlamaConfig,
  type ModelConfig,
  ortEngine,
  randomStream,
  randomTensors,
  type Session,
} from "../../runtime/index.ts";

/** Model, engine and data of the toy task. */
export interface Toy {
  readonly model: BaseModel;
  /** One thread, so that equal runs give equal bytes. */
  readonly engine: Engine;
  readonly publicSet: readonly Example[];
  /** The task with some of its fields set; the rest as in `toySettings`. */
  task(settings?: TaskInput): Task;
}

/** What a person may write into the task. */
export type TaskInput = Partial<Parameters<typeof taskSchema.parse>[0] & object> &
  Readonly<Record<string, unknown>>;

const sizes = {
  vocabSize: 64,
  positions: 32,
  hiddenSize: 32,
  layers: 4,
  heads: 4,
  innerSize: 64,
  padTokenId: 0,
};
const gpt2: Gpt2Config = { family: "gpt2", ...sizes, layerNormEpsilon: 1e-5 };
const llama: LlamaConfig = {
  family: "llama",
  ...sizes,
  keyValueHeads: 2,
  headSize: 8,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: false,
  outputBias: false,
  feedForwardBias: false,
  queryKeyNorm: false,
  tiedEmbedding: true,
};
/** What a toy can be, and the layers that its task adapts. */
const models = {
  gpt2: { config: gpt2, targets: ["c_attn", "mlp.c_fc"] },
  llama: { config: llama, targets: ["q_proj", "v_proj", "mlp.up_proj"] },
} as const;

/** Opens the toy; the test's end closes it. */
export async function openToy(
  t: Test,
  { labels = 2, family = "gpt2" as ModelConfig["family"] } = {},
): Promise<Toy> {
  const { config, targets } = models[family];
  const engine = rememberingEngine(ortEngine({ threads: 1 }));
  t.teardown(() => engine.close());
  // Ten times the usual deviation: with 0.02 a tiny model's blocks hardly bend what enters them.
  const weights = new Map(
    [...randomTensors(config, 1)].map(([name, { dtype, shape, data }]) => [
      name,
      { dtype, shape, data: /ln_|norm/.test(name) ? data : data.map((value) => 10 * value) },
    ]),
  );
  const cacheFolder = t.testdir();
  const model = await baseModelFromTensors(config, weights, { cacheFolder });
  const publicSet = toyExamples("public", 18, labels).map(({ tokens }) => ({ tokens, label: -1 }));
  const names = Array.from({ length: labels }, (_, i) => `class-${i}`);
  const manifest = {
    modelSha256: model.sha256,
    tokenizerSha256: "0".repeat(64),
    config,
    publicSet: { sha256: "0".repeat(64), size: publicSet.length, bytes: 1000 },
  };
  return {
    model,
    engine,
    publicSet,
    task: (settings = {}) => ({
      ...taskSchema.parse(
        toySettings(names, { adapter: { rank: 2, alpha: 4, targets }, ...settings }),
      ),
      manifest,
    }),
  };
}

/** Texts of 3 to 12 tokens, four of five of which come from their class's own part of the vocabulary. */
export function toyExamples(name: string, count: number, labels = 2): Example[] {
  const random = randomStream("toy", name);
  const part = Math.floor(sizes.vocabSize / labels);
  return Array.from({ length: count }, () => {
    const label = random.below(labels);
    const token = () =>
      random.next() < 0.8 ? label * part + random.below(part) : random.below(sizes.vocabSize);
    const tokens = Array.from({ length: 3 + random.below(10) }, token);
    return { tokens, label };
  });
}

/** Loads equal graphs once, for tests open the same parts dozens of times; sessions live as long as the engine. */
function rememberingEngine(inner: Engine): Engine {
  const known = new Map<string, Promise<Session>>();
  return {
    name: inner.name,
    load: async (graph, options) => {
      const key = JSON.stringify(graph, (_, value: unknown) =>
        ArrayBuffer.isView(value) ? Buffer.from(value.buffer).toString("base64") : value,
      );
      const session = known.get(key) ?? inner.load(graph, options);
      known.set(key, session);
      return { ...(await session), close: async () => {} };
    },
    close: () => inner.close(),
  };
}

function toySettings(labels: readonly string[], settings: TaskInput): unknown {
  const { training, ...others } = settings;
  return {
    name: "toy",
    seed: 7,
    head: { kind: "classification", labels },
    training: {
      rounds: 4,
      localSteps: 4,
      batchSize: 4,
      sequenceLength: 12,
      learningRate: 1e-2,
      ...(training as object),
    },
    labelsMayLeave: true,
    full: { encoding: "float32" },
    kd: { encoding: "float32" },
    split: { activations: "float32", gradients: "float32" },
    ...others,
  };
}
