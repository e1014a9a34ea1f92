// Gradients of random graphs in which every value is read, seeded and wanted at once, as in a cut model's step.
import * as fc from "fast-check";
import t from "tap";
import { gradients } from "../../runtime/autodiff/backward.ts";
import type { Value } from "../../runtime/graph/ir.ts";
import { referenceEngine } from "../../runtime/graph/reference.ts";
import { randomStream } from "../../runtime/random.ts";
import { ortEngine } from "../../runtime/session/ort.ts";
import type { Float32Tensor, Tensor } from "../../runtime/tensor.ts";
import { inFloat64, slopes, type WeightedSum } from "./finite-differences.ts";
import { checkFloat32 } from "./float32-agreement.ts";
import { type GraphPlan, graphPlans, randomGraph } from "./random-graphs.ts";
import { numbers } from "./vjp-tensors.ts";

const reference = referenceEngine();
t.teardown(() => reference.close());

t.test("gradients of random graphs are slopes, at the input and at every value", async () => {
  const check = async (plan: GraphPlan) => {
    const { graph, feed, values, found } = differentiated(plan);
    const x = inFloat64(feed);
    const results = await (await reference.load(graph)).run(new Map([["x", x]]));
    const gradients = found.map(({ name }) => results.get(name) as Tensor);
    checkSlopes("x", gradients[0], await slopes(await weighedSum(plan, x), "x", fewPlaces));
    for (const [step, { name }] of values.entries()) {
      // What follows a value is a function of it in a graph that takes it as an input.
      const sum = await weighedSum(plan, x, { step, h: results.get(name) as Tensor });
      checkSlopes(name, gradients[step + 1], await slopes(sum, "h", fewPlaces));
    }
  };
  await fc.assert(fc.asyncProperty(graphPlans(), check), { numRuns: 100, seed: 29 });
});

t.test("ONNX Runtime gives the same gradients of random graphs but for float32", async (t) => {
  const ort = ortEngine({ threads: 1 });
  t.teardown(() => ort.close());
  const check = async (plan: GraphPlan) => {
    const { graph, feed } = differentiated(plan);
    const feeds = new Map([["x", feed]]);
    const [a, b] = await Promise.all([ort.load(graph), reference.load(graph)]);
    checkFloat32(await a.run(feeds), await b.run(feeds));
    await a.close();
  };
  await fc.assert(fc.asyncProperty(graphPlans(), check), { numRuns: 100, seed: 31 });
});

/** Graphs grow to thousands of elements; of each value, this many are moved. */
const fewPlaces = 8;

function checkSlopes(
  name: string,
  gradient: Tensor | undefined,
  expected: ReadonlyMap<number, number>,
): void {
  for (const [at, slope] of expected) {
    const found = Number(gradient?.data[at]);
    // Rules hold constants in float32, each off by up to 6e-8 of itself, a few in a row; 2,000 graphs kept 4e-8.
    if (Math.abs(found - slope) <= 5e-7 * (1 + Math.abs(slope))) continue;
    throw new Error(`${name}[${at}]: gradient ${found}, slope ${slope}`);
  }
}

/** A random graph that gives its values and the gradients `found`, of `x` and of each value, all of them seeded. */
function differentiated(plan: GraphPlan) {
  const { builder, x, values, feed } = randomGraph(plan);
  const wanted = [x, ...values];
  const seeds = wanted.map((value, i) => ({
    value,
    gradient: builder.constant(weightsOf(value, i)),
  }));
  const found = gradients(builder, seeds, wanted);
  for (const value of [...values, ...found]) builder.output(value);
  return { graph: builder.build(plan.steps.join("-")), feed, values, found };
}

/** What the gradients are slopes of; with a cut, the value after that step is the input `h` and nothing but. */
async function weighedSum(
  plan: GraphPlan,
  x: Tensor,
  cut?: { readonly step: number; readonly h: Tensor },
): Promise<WeightedSum> {
  const random = randomGraph(plan, cut?.step);
  const values = [random.x, ...random.values];
  for (const value of values) random.builder.output(value);
  return {
    session: await reference.load(random.builder.build("sum")),
    feeds: new Map([["x", x], ...(cut ? [["h", cut.h] as const] : [])]),
    weights: new Map(values.map((value, i) => [value.name, weightsOf(value, i)])),
  };
}

function weightsOf({ shape }: Value, place: number): Float32Tensor {
  return numbers(randomStream("weights", place), shape);
}
