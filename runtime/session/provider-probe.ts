// The program that tries one execution provider: a small graph on it and on the CPU, and whether the numbers agree. A
// process of its own, so that it may load native code on its only thread and die of it.
import { InferenceSession, Tensor } from "onnxruntime-node";
import { graphBuilder } from "../graph/builder.ts";
import { exportOnnx } from "../onnx/export.ts";

const size = 64;
// A GPU may round the inputs of products to TF32, 10 bits of fraction: errors of about 1e-3. A wrong kernel is far off.
const tolerance = 1e-2;

const name = process.argv[2] ?? "";
process.stdout.write(JSON.stringify(await outcome()));

async function outcome(): Promise<{ readonly works: boolean; readonly reason: string }> {
  try {
    const expected = await compute("cpu");
    if (name === "cpu") return { works: true, reason: "a small graph computes" };
    const actual = await compute(name);
    const largest = Math.max(...expected.map(Math.abs));
    const error = Math.max(...expected.map((value, i) => Math.abs(value - (actual[i] as number))));
    // A comparison with NaN is false.
    const works = largest > 0 && error <= tolerance * largest;
    const difference = `${(error / largest).toExponential(1)} of the largest number`;
    return { works, reason: `a small graph differs from the CPU's numbers by ${difference}` };
  } catch (cause) {
    return { works: false, reason: cause instanceof Error ? cause.message : String(cause) };
  }
}

async function compute(provider: string): Promise<readonly number[]> {
  const session = await InferenceSession.create(model(), {
    executionProviders: [provider],
    logSeverityLevel: 4,
    // Nodes that nobody but the CPU takes are an error, not a silent fallback.
    ...(provider === "cpu" ? {} : { extra: { session: { disable_cpu_ep_fallback: "1" } } }),
  });
  const wave = Float32Array.from({ length: size * size }, (_, i) => Math.sin(i));
  const { y } = await session.run({ x: new Tensor("float32", wave, [size, size]) });
  await session.release();
  return Array.from(y?.data as Float32Array);
}

/** softmax(tanh(x x + x)) x: operators that every provider has. */
function model(): Uint8Array {
  const b = graphBuilder();
  const x = b.input("x", "float32", [size, size]);
  const sum = b.op("Add", [b.op("MatMul", [x, x], {}), x], {});
  const weights = b.op("Softmax", [b.op("Tanh", [sum], {})], {});
  b.output(b.op("MatMul", [weights, x], {}, "y"));
  return exportOnnx(b.build("provider-probe")).model;
}
