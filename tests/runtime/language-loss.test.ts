// The loss of a language model whose vocabulary is too large to be held twice.
import t from "tap";
import {
  baseModelFromTensors,
  type Float32Tensor,
  type Gpt2Config,
  initialParameters,
  int64,
  type ModelSpec,
  ortEngine,
  randomStream,
  randomTensors,
  stepGraph,
  type Tensor,
} from "../../runtime/index.ts";

const engine = ortEngine({ threads: 2 });
t.teardown(() => engine.close());

t.test("a loss over pieces of the vocabulary is that of the vocabulary in one piece", async (t) => {
  // 64 tokens over 40,000 words are 10 MB of logits: two pieces.
  const wide: Gpt2Config = {
    family: "gpt2",
    vocabSize: 40_000,
    positions: 64,
    hiddenSize: 8,
    layers: 1,
    heads: 2,
    innerSize: 16,
    layerNormEpsilon: 1e-5,
    padTokenId: 0,
  };
  const base = await baseModelFromTensors(wide, randomTensors(wide, 1), {
    cacheFolder: t.testdir(),
  });
  const lora = { rank: 2, alpha: 4, targets: ["c_attn"] };
  const spec: ModelSpec = { model: base, lora, head: { kind: "lm" }, batch: 1, sequence: 64 };
  for (const smoothing of [0, 0.1]) {
    const objective = { kind: "labels", smoothing } as const;
    const results = [];
    for (const wantsLogits of [true, false]) {
      const { graph, loss = "", gradients } = stepGraph(spec, { objective, wantsLogits });
      const products = graph.nodes.filter(({ inputs }) =>
        /wte\.weight/.test(inputs[1]?.name ?? ""),
      );
      t.equal(products.length > 2, !wantsLogits, "more products when in pieces");
      const session = await engine.load(graph);
      const random = randomStream("words");
      const ids = Array.from({ length: 64 }, () => random.below(wide.vocabSize));
      const available = new Map<string, Tensor>([
        ...initialParameters(wide, lora, spec.head, 1),
        ["input_ids", int64([1, 64], ids)],
        ["attention_mask", int64([1, 64], new BigInt64Array(64).fill(1n))],
        ["labels", int64([64], ids.toReversed())],
        ["weights", { dtype: "float32", shape: [64], data: new Float32Array(64).fill(1 / 64) }],
      ]);
      const feeds = graph.inputs.map(({ name }) => [name, available.get(name) as Tensor] as const);
      const outputs = await session.run(new Map(feeds));
      const named = [...gradients].map(([name, output]) => [name, outputs.get(output)] as const);
      results.push({ loss: Number(outputs.get(loss)?.data[0]), gradients: new Map(named) });
      await session.close();
    }
    const [one, pieces] = results as [(typeof results)[number], (typeof results)[number]];
    // Sums of 40,000 terms in another order.
    t.ok(Math.abs(one.loss - pieces.loss) < 1e-5 * one.loss, `${one.loss}, ${pieces.loss}`);
    for (const [name, expected] of one.gradients) {
      const actual = pieces.gradients.get(name) as Float32Tensor;
      const wanted = (expected as Float32Tensor).data;
      const largest = Math.max(...wanted.map(Math.abs));
      const error = Math.max(...wanted.map((x, i) => Math.abs(x - (actual.data[i] as number))));
      t.ok(error <= 1e-5 * largest, `${name}: error ${error} of ${largest}`);
      // B starts at zero, so that A has no gradient yet.
      if (name.includes("lora_B")) t.ok(largest > 0, `${name}: a gradient to see`);
    }
  }
});
