// A task small enough to train in a test: a tiny random GPT-2 that tells texts of low from texts of high tokens.
import type { Test } from "tap";
import { type Task, taskSchema } from "../../protocols/index.ts";
import {
  type BaseModel,
  baseModelFromTensors,
  type Engine,
  type Example,
  type Gpt2Config,
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

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 64,
  positions: 32,
  hiddenSize: 32,
  layers: 4,
  heads: 4,
  innerSize: 64,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};

/** Opens the toy; the test's end closes it. */
export async function openToy(t: Test, { labels = 2 } = {}): Promise<Toy> {
  const engine = rememberingEngine(ortEngine({ threads: 1 }));
  t.teardown(() => engine.close());
  // Ten times the usual deviation: with 0.02 a tiny model's blocks hardly bend what enters them.
  const weights = new Map(
    [...randomTensors(config, 1)].map(([name, { dtype, shape, data }]) => [
      name,
      { dtype, shape, data: name.includes("ln_") ? data : data.map((value) => 10 * value) },
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
    task: (settings = {}) => ({ ...taskSchema.parse(toySettings(names, settings)), manifest }),
  };
}

/** Texts of 3 to 12 tokens, four of five of which come from their class's own part of the vocabulary. */
export function toyExamples(name: string, count: number, labels = 2): Example[] {
  const random = randomStream("toy", name);
  const part = Math.floor(config.vocabSize / labels);
  return Array.from({ length: count }, () => {
    const label = random.below(labels);
    const token = () =>
      random.next() < 0.8 ? label * part + random.below(part) : random.below(config.vocabSize);
    const tokens = Array.from({ length: 3 + random.below(10) }, token);
    return { tokens, label };
  });
}

/** Loads equal graphs once, for tests open the same parts dozens of times; sessions live as long as the engine. */
function rememberingEngine(inner: Engine): Engine {
  const known = new Map<string, Promise<Session>>();
  return {
    name: inner.name,
    load: async (graph) => {
      const key = JSON.stringify(graph, (_, value: unknown) =>
        ArrayBuffer.isView(value) ? Buffer.from(value.buffer).toString("base64") : value,
      );
      const session = known.get(key) ?? inner.load(graph);
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
    adapter: { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_fc"] },
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
