// Training that leaves factor A where it is (FFA-LoRA): what else a step computes must not notice.
import t from "tap";
import {
  adamW,
  baseModelFromTensors,
  type Float32Tensor,
  float32,
  type Gpt2Config,
  initialParameters,
  loadFront,
  loadStep,
  type ModelSpec,
  makeBatch,
  ortEngine,
  type Parameters,
  randomStream,
  randomTensors,
} from "../../runtime/index.ts";

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 97,
  positions: 64,
  hiddenSize: 48,
  layers: 4,
  heads: 4,
  innerSize: 192,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
const engine = ortEngine({ threads: 2 });
t.teardown(() => engine.close());
const cacheFolder = t.testdir();
const model = await baseModelFromTensors(config, randomTensors(config, 1), { cacheFolder });

const random = randomStream("frozen");
const examples = Array.from({ length: 3 }, (_, label) => ({
  tokens: Array.from({ length: 7 - label }, () => 1 + random.below(96)),
  label,
}));

const specOf = (freezesA: boolean): ModelSpec => ({
  model,
  lora: { rank: 4, alpha: 8, targets: ["c_attn", "mlp.c_fc"], freezesA },
  head: { kind: "classification", classes: 3 },
  batch: 3,
  sequence: 7,
});

t.test(
  "a frozen A gets no gradient, and the others keep their bits, whole, cut and by blocks",
  async (t) => {
    const open = specOf(false);
    const frozen = specOf(true);
    const parameters = movedParameters(open);
    const { feeds } = makeBatch(examples, { batch: 3, sequence: 7, padTokenId: 0 });
    const gradientsOf = async (spec: ModelSpec) => {
      const step = await loadStep(engine, spec);
      t.teardown(() => step.close());
      const { gradients, flops } = await step.run(parameters, feeds);
      return { gradients, flops };
    };
    const all = await gradientsOf(open);
    const some = await gradientsOf(frozen);
    const isA = (name: string) => name.endsWith("lora_A.weight");
    const expected = new Map([...all.gradients].filter(([name]) => !isA(name)));
    t.same(differing(some.gradients, expected), []);
    t.ok(some.flops < all.flops, "and costs less");
    const blocks = await gradientsOf({ ...frozen, execution: "blocks" });
    t.same(differing(blocks.gradients, expected), []);
    const front = await loadFront(engine, frozen, 2);
    const tail = await loadStep(engine, frozen, { from: 2 });
    const activations = await front.forward(parameters, feeds);
    const { gradients, cutGradient } = await tail.run(
      parameters,
      new Map([...feeds, ["activations", activations]]),
    );
    const own = await front.backward(parameters, feeds, cutGradient as Float32Tensor);
    t.same(differing(new Map([...own, ...gradients]), expected), []);
    await front.close();
    await tail.close();
    const optimizer = adamW(parameters, { weightDecay: 0.1 });
    optimizer.step(some.gradients, { rate: 0.01 });
    for (const [name, { data }] of optimizer.parameters) {
      t.equal(
        isA(name),
        data.every((value, i) => value === parameters.get(name)?.data[i]),
        name,
      );
    }
  },
);

/** Not as at the start: B is zero there, and the gradient of A with it. */
function movedParameters({ lora, head }: ModelSpec): Parameters {
  return new Map(
    [...initialParameters(config, lora, head, 1)].map(([name, { shape, data }]) => [
      name,
      float32(
        shape,
        data.map((value) => value + 0.05 * random.normal()),
      ),
    ]),
  );
}

/** Names that only one has, or whose bits differ. */
function differing(actual: Parameters, expected: Parameters): string[] {
  const names = new Set([...actual.keys(), ...expected.keys()]);
  return [...names].filter((name) => {
    const [x, y] = [actual.get(name)?.data, expected.get(name)?.data];
    return !x || !y || x.some((value, i) => value !== y[i]);
  });
}
