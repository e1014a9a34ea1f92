// What every engine must do, whatever it computes with.
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Test } from "tap";
import { graphBuilder } from "../../runtime/graph/builder.ts";
import type { Graph, Value } from "../../runtime/graph/ir.ts";
import type { OpName } from "../../runtime/graph/ops.ts";
import type { Engine, Session } from "../../runtime/session/engine.ts";
import { type FileTensor, float32, int64, type Tensor } from "../../runtime/tensor.ts";
import { badGraphs as misfits } from "./bad-graphs.ts";
import { type OperatorCase, operatorCases } from "./engine-operators.ts";

/** Holds an engine to the contract; `makeEngine` is called once for each subtest that closes engines. */
export function engineContract(t: Test, makeEngine: () => Engine): void {
  t.test("every operator gives the numbers worked out by hand", (t) => operators(t, makeEngine()));
  t.test("feeds that do not fit are refused by name", (t) => feedChecks(t, makeEngine()));
  t.test("a run computes the outputs asked for and no others", (t) => subsets(t, makeEngine()));
  t.test("runs started together do not mix", (t) => together(t, makeEngine()));
  t.test("graphs loaded together do not mix", (t) => loadedTogether(t, makeEngine()));
  t.test("weights come from their place in a file", (t) => externalWeights(t, makeEngine()));
  t.test("a feed may lie in a file", (t) => fileFeeds(t, makeEngine()));
  t.test("a graph that cannot be computed is refused", (t) => badGraphs(t, makeEngine()));
  t.test("closing twice is harmless and ends everything", (t) => closing(t, makeEngine()));
}

/** The first output of a session as plain numbers. */
async function firstOutput(
  session: Session,
  feeds: Readonly<Record<string, Tensor | FileTensor>>,
): Promise<number[]> {
  const [output] = await session.run(new Map(Object.entries(feeds)));
  return output ? Array.from(output[1].data, Number) : [];
}

async function operators(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  for (const op of Object.keys(operatorCases) as OpName[]) {
    const cases: readonly OperatorCase<OpName>[] = operatorCases[op];
    for (const [i, { inputs, attributes, expected }] of cases.entries()) {
      const builder = graphBuilder();
      const values = inputs.map((x, k) => builder.input(`x${k}`, x.dtype as "float32", x.shape));
      const outputs = builder.apply(op, values, attributes);
      for (const output of outputs) builder.output(output);
      const session = await engine.load(builder.build(op));
      const results = await session.run(new Map(inputs.map((x, k) => [`x${k}`, x])));
      for (const [k, output] of outputs.entries()) {
        const wanted = expected[k] ?? [];
        const result = results.get(output.name);
        const label = `${op} case ${i} output ${k}`;
        t.same(result?.shape, output.shape, `${label}: shape`);
        const numbers = Array.from(result?.data ?? [], Number);
        t.ok(isClose(numbers, wanted), `${label}: ${numbers} is ${wanted}`);
      }
      await session.close();
    }
  }
}

/** Within 1e-6 of the size of the number: a few float32 roundings (6e-8 each); both tables of `exp` and `tanh` keep 1e-7. */
function isClose(actual: readonly number[], expected: readonly number[]): boolean {
  const close = (x: number, i: number) =>
    Math.abs((actual[i] ?? Number.NaN) - x) <= 1e-6 * Math.max(1, Math.abs(x));
  return actual.length === expected.length && expected.every(close);
}

/** y = x + w and rows = w[i], over x [2, 3], w [3] and i [2]. */
function sampleGraph(): Graph {
  const builder = graphBuilder();
  const x = builder.input("x", "float32", [2, 3]);
  const i = builder.input("i", "int64", [2]);
  const w = builder.constant(float32([3], [10, 20, 30]), "w");
  builder.output(builder.op("Add", [x, w], {}, "y"));
  builder.output(builder.op("Gather", [w, i], {}, "rows"));
  return builder.build("sample");
}

const sampleFeeds = {
  x: float32([2, 3], [1, 2, 3, 4, 5, 6]),
  i: int64([2], [2, 0]),
};

async function feedChecks(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const session = await engine.load(sampleGraph());
  const refused = (feeds: Readonly<Record<string, Tensor>>, message: RegExp) =>
    t.rejects(session.run(new Map(Object.entries(feeds))), {
      code: "SESSION_FEED_INVALID",
      message,
    });
  await refused({ x: sampleFeeds.x }, /sample: input i int64\[2\] is missing/);
  await refused(
    { ...sampleFeeds, x: float32([3, 2]) },
    /input x must be float32\[2, 3\], got float32\[3, 2\]/,
  );
  await refused(
    { ...sampleFeeds, i: float32([2]) },
    /input i must be int64\[2\], got float32\[2\]/,
  );
  await refused({ ...sampleFeeds, z: float32([]) }, /no input is named z/);
  await refused(
    { ...sampleFeeds, x: float32([6], [1, 2, 3, 4, 5, 6]) },
    /input x must be float32\[2, 3\], got float32\[6\]/,
  );
  await refused(
    { ...sampleFeeds, x: int64([2, 3], [1, 2, 3, 4, 5, 6]) },
    /input x must be float32\[2, 3\], got int64\[2, 3\]/,
  );
  await refused({ ...sampleFeeds, w: float32([3], [0, 0, 0]) }, /no input is named w/);
  const short = float32([2, 3], [1, 2]);
  await refused({ ...sampleFeeds, x: short }, /input x float32\[2, 3\] needs 6 elements, got 2/);
  await t.rejects(session.run(new Map(Object.entries(sampleFeeds)), ["y", "z"]), {
    code: "SESSION_FEED_INVALID",
    message: /no output is named z/,
    hint: "Names: y, rows.",
  });
  for (const beyond of [3, -4]) {
    await t.rejects(
      session.run(new Map(Object.entries({ ...sampleFeeds, i: int64([2], [0, beyond]) }))),
      { code: "SESSION_FAILED", message: /Graph sample: .*(out of data bounds|out of range)/ },
      `index ${beyond} is beyond a table of 3`,
    );
  }
  t.same(await firstOutput(session, sampleFeeds), [11, 22, 33, 14, 25, 36], "it still works");
}

async function subsets(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const session = await engine.load(sampleGraph());
  const feeds = new Map<string, Tensor>(Object.entries(sampleFeeds));
  const names = async (outputs?: readonly string[]) => [
    ...(await session.run(feeds, outputs)).keys(),
  ];
  t.same(await names(), ["y", "rows"]);
  t.same(await names(["rows"]), ["rows"]);
  t.same(await names(["rows", "y", "rows"]), ["rows", "y"]);
  t.same(await names([]), []);
}

async function together(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const session = await engine.load(sampleGraph());
  const message = new Float32Array(60).fill(-1);
  const order: number[] = [];
  const runs = [0, 1, 2, 3].map(async (k) => {
    // A view into a larger message that is written again at once, as a transport would.
    const data = message.subarray(6 * k, 6 * k + 6).fill(k);
    const x = float32([2, 3], data);
    // A feed that is not the first must be copied at once too.
    const { i } = sampleFeeds;
    const pending = firstOutput(session, k % 2 === 0 ? { x, i } : { i, x });
    data.fill(-1);
    const result = await pending;
    order.push(k);
    return result;
  });
  const row = (k: number) => [10 + k, 20 + k, 30 + k];
  t.same(
    await Promise.all(runs),
    [0, 1, 2, 3].map((k) => [...row(k), ...row(k)]),
  );
  t.same(order, [0, 1, 2, 3]);
  t.equal(message.length, 60, "the caller keeps the buffer");
}

async function loadedTogether(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const addGraph = (term: number): Graph => {
    const builder = graphBuilder();
    const x = builder.input(`x${term}`, "float32", [1]);
    builder.output(builder.op("Add", [x, builder.constant(float32([1], [term]), "term")], {}));
    return builder.build(`add-${term}`);
  };
  const sessions = await Promise.all([1, 2, 3].map((term) => engine.load(addGraph(term))));
  for (const [i, session] of sessions.entries()) {
    t.same(await firstOutput(session, { [`x${i + 1}`]: float32([1], [10]) }), [11 + i]);
  }
}

async function externalWeights(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const folder = t.testdir();
  const file = join(folder, "weights.bin");
  // Nine floats; the graph uses the last six, so offsets count.
  await writeFile(file, new Uint8Array(Float32Array.of(9, 9, 9, 1, 2, 3, 4, 5, 6).buffer));
  const load = (offsetBytes: number) => engine.load(weightGraph(file, offsetBytes));
  const [a, b] = [await load(12), await load(12)];
  const feeds = { x: float32([1, 2], [1, 10]) };
  t.same(await firstOutput(a, feeds), [41, 52, 63]);
  await a.close();
  t.same(await firstOutput(b, feeds), [41, 52, 63], "closing one session leaves the other's file");
  t.same(await readdir(folder), ["weights.bin"], "nothing is left beside the weights");
  await t.rejects(load(16), { code: "SESSION_FAILED", message: /w/ }, "the file ends too early");
  await t.rejects(engine.load(weightGraph(join(folder, "none.bin"), 0)), {
    code: "SESSION_FAILED",
    message: /none\.bin/,
  });
}

async function fileFeeds(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const folder = t.testdir();
  const file = join(folder, "weights.bin");
  await writeFile(file, new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
  const session = await engine.load(negation());
  const at = (offsetBytes: number, path = file) => ({
    x: { dtype: "float32", shape: [2], file: path, offsetBytes, lengthBytes: 8 } as const,
  });
  t.same(await firstOutput(session, at(4)), [-2, -3]);
  t.same(await firstOutput(session, at(8)), [-3, -4], "another place takes the first one's memory");
  await t.rejects(session.run(new Map(Object.entries(at(12)))), {
    code: "SESSION_FAILED",
    message: /x needs 8 bytes of .*weights\.bin, got 4/,
  });
  t.same(await firstOutput(session, at(8)), [-3, -4], "a read that failed leaves nothing behind");
  await t.rejects(session.run(new Map(Object.entries(at(0, join(folder, "none.bin"))))), {
    code: "SESSION_FAILED",
    message: /none\.bin/,
  });
  const { x } = at(4);
  await t.rejects(session.run(new Map([["x", { ...x, lengthBytes: 12 }]])), {
    code: "SESSION_FEED_INVALID",
    message: /input x float32\[2\] needs 2 elements, got 3/,
  });
}

/** -x of two numbers. */
function negation(): Graph {
  const builder = graphBuilder();
  builder.output(builder.op("Neg", [builder.input("x", "float32", [2])], {}));
  return builder.build("negation");
}

/** x [1, 2] times a [2, 3] matrix of a file. */
function weightGraph(file: string, offsetBytes: number): Graph {
  const builder = graphBuilder();
  const x = builder.input("x", "float32", [1, 2]);
  const value: Value = { name: "w", dtype: "float32", shape: [2, 3] };
  const w = builder.initializer({ kind: "external", value, file, offsetBytes, lengthBytes: 24 });
  builder.output(builder.op("MatMul", [x, w], {}));
  return builder.build("weights");
}

async function badGraphs(t: Test, engine: Engine): Promise<void> {
  t.teardown(() => engine.close());
  const good = sampleGraph();
  const refused = (graph: Graph, message: RegExp) =>
    t.rejects(engine.load(graph), { code: "SESSION_FAILED", message });
  await refused({ ...good, initializers: [] }, /Graph sample: .*\bw\b/);
  await refused({ ...good, nodes: good.nodes.slice(1) }, /Graph sample: .*\by\b/);
  const outputs = good.nodes[0]?.outputs.map((value) => ({ ...value, shape: [7] })) ?? [];
  const [first, ...rest] = good.nodes;
  if (first) await refused({ ...good, nodes: [{ ...first, outputs }, ...rest], outputs }, /sample/);
  const initializers = good.initializers.map((initializer) => ({
    kind: "inline" as const,
    value: initializer.value,
    tensor: float32([2]),
  }));
  await refused({ ...good, initializers }, /w .*\b2\b/);
  for (const { title, graph, message } of misfits) {
    await t.rejects(engine.load(graph), { code: "SESSION_FAILED", message }, title);
  }
  const session = await engine.load(good);
  t.same(await firstOutput(session, sampleFeeds), [11, 22, 33, 14, 25, 36], "a good one loads");
}

async function closing(t: Test, engine: Engine): Promise<void> {
  const [a, b] = [await engine.load(sampleGraph()), await engine.load(sampleGraph())];
  await Promise.all([a.close(), a.close()]);
  await a.close();
  const feeds = new Map<string, Tensor>(Object.entries(sampleFeeds));
  const closed = { code: "SESSION_FAILED", message: /Graph sample: The \w+ is closed/ };
  await t.rejects(a.run(feeds), closed);
  t.same(await firstOutput(b, sampleFeeds), [11, 22, 33, 14, 25, 36], "the other session lives");
  await Promise.all([engine.close(), engine.close()]);
  await engine.close();
  await t.rejects(b.run(feeds), closed);
  await t.rejects(engine.load(sampleGraph()), closed);
  await b.close();
}
