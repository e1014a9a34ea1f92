// Every gradient rule on random shapes, attributes and inputs against central differences in float64.
// A failure prints the seed, the smallest example that fails and the element that is wrong.
import assert from "node:assert/strict";
import * as fc from "fast-check";
import t from "tap";
import { gradients } from "../../runtime/autodiff/backward.ts";
import { graphBuilder } from "../../runtime/graph/builder.ts";
import type { Value } from "../../runtime/graph/ir.ts";
import type { OpName } from "../../runtime/graph/ops.ts";
import { referenceEngine } from "../../runtime/graph/reference.ts";
import { randomStream } from "../../runtime/random.ts";
import { sameShape, type Tensor } from "../../runtime/tensor.ts";
import { inFloat64, slopes } from "./finite-differences.ts";
import { type VjpExample, vjpArbitraries } from "./vjp-arbitraries.ts";
import { numbers } from "./vjp-tensors.ts";

const engine = referenceEngine();
t.teardown(() => engine.close());

// What is left of the differences (see `slopes`): 2e-11 of third derivatives of at most 16, log's at a half.
const exact = 1e-9;
// A factor such as 1/3 is a float32 constant in the graph, off by up to 2^-24 = 6e-8 of itself.
const rounded = 1e-7;
const tolerances: { readonly [K in OpName]?: number } = {
  Gelu: rounded,
  ReduceMean: rounded,
  RMSNormalization: rounded,
};

for (const op of Object.keys(vjpArbitraries) as OpName[]) {
  t.test(`the gradient of ${op} is the slope of any weighted sum of its outputs`, async (t) => {
    let steepest = 0;
    const check = async (example: VjpExample<OpName>) => {
      steepest = Math.max(steepest, await checkExample(op, example));
    };
    const examples = vjpArbitraries[op] as fc.Arbitrary<VjpExample<OpName>>;
    await fc.assert(fc.asyncProperty(examples, check), { numRuns: 60, seed: 23 });
    t.ok(steepest > 0.1, `a slope to see: ${steepest}`);
  });
}

/** Checks the gradients of an example, then again with one value in place of inputs that are alike; gives the steepest slope. */
async function checkExample(op: OpName, example: VjpExample<OpName>): Promise<number> {
  const { inputs, frozen = [] } = example;
  const apart = [...inputs.keys()];
  const shared = inputs.map(({ dtype, shape }, i) => {
    const last = inputs.findLastIndex((x) => x.dtype === dtype && sameShape(x.shape, shape));
    return frozen.includes(i) || frozen.includes(last) ? i : last;
  });
  const steepest = await checkGradients(op, example, apart);
  if (!sameShape(shared, apart)) await checkGradients(op, example, shared);
  return steepest;
}

/** Compares every gradient with slopes; operand i is input `places[i]`. */
async function checkGradients(
  op: OpName,
  example: VjpExample<OpName>,
  places: readonly number[],
): Promise<number> {
  const { inputs, frozen = [] } = example;
  const feeds = new Map(places.map((place) => [`x${place}`, inFloat64(inputs[place] as Tensor)]));
  const wanted = [...new Set(places)]
    .filter((place) => inputs[place]?.dtype === "float32" && !frozen.includes(place))
    .map((place) => `x${place}`);
  const { forward, weights, backward, names } = await differentiate(op, example, places, wanted);
  const results = await backward.run(feeds);
  let steepest = 0;
  for (const [n, name] of wanted.entries()) {
    const { shape, data } = results.get(names[n] as string) as Tensor;
    assert.deepEqual(shape, feeds.get(name)?.shape, `shape of the gradient of ${name}`);
    const expected = await slopes({ session: forward, feeds, weights }, name);
    for (const [at, slope] of expected) {
      const error = Math.abs(Number(data[at]) - slope) / (1 + Math.abs(slope));
      if (!(error <= (tolerances[op] ?? exact))) {
        throw new Error(`${op}, input ${name}[${at}]: gradient ${data[at]}, slope ${slope}`);
      }
      steepest = Math.max(steepest, Math.abs(slope));
    }
    // A rule builds what is wanted and no more; wanting less changes no number.
    const alone = await differentiate(op, example, places, [name]);
    const only = (await alone.backward.run(feeds)).get(alone.names[0] as string);
    assert.deepEqual(only?.data, data, `gradient of ${name} alone`);
  }
  return steepest;
}

/** One node, and the same with the gradients of `wanted` under `names`, in their order. */
async function differentiate(
  op: OpName,
  { inputs, attributes, seeded = [0] }: VjpExample<OpName>,
  places: readonly number[],
  wanted: readonly string[],
) {
  const b = graphBuilder();
  const values = inputs.map(({ dtype, shape }, i) =>
    b.input(`x${i}`, dtype === "float64" ? "float32" : dtype, shape),
  );
  const operands = places.map((place) => values[place] as Value);
  const outputs = b.apply(op, operands, attributes);
  const random = randomStream("weights");
  const seeds = seeded.map((i) => {
    const value = outputs[i] as Value;
    const tensor = numbers(random, value.shape);
    return { value, gradient: b.constant(tensor), tensor };
  });
  for (const { value } of seeds) b.output(value);
  const forward = await engine.load(b.build(op));
  const found = gradients(
    b,
    seeds,
    wanted.map((name) => values.find((value) => value.name === name) as Value),
  );
  for (const gradient of found) b.output(gradient);
  const backward = await engine.load(b.build(`${op} backward`));
  const weights = new Map(seeds.map(({ value, tensor }) => [value.name, tensor]));
  return { forward, weights, backward, names: found.map(({ name }) => name) };
}
