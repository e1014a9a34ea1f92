import { spawnSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { extname, join } from "node:path";
import * as fc from "fast-check";
import t from "tap";
import { graphBuilder } from "../../runtime/graph/builder.ts";
import type { Graph } from "../../runtime/graph/ir.ts";
import { referenceEngine } from "../../runtime/graph/reference.ts";
import { randomStream } from "../../runtime/random.ts";
import { ortEngine } from "../../runtime/session/ort.ts";
import { openWorkerChannel } from "../../runtime/session/worker-channel.ts";
import { float32, int64, type Tensor } from "../../runtime/tensor.ts";
import { engineContract } from "./engine-contract.ts";
import { checkFloat32 } from "./float32-agreement.ts";
import { graphPlans, randomGraph } from "./random-graphs.ts";

t.test("the reference interpreter keeps the contract of engines", async (t) =>
  engineContract(t, referenceEngine),
);
t.test("ONNX Runtime keeps the contract of engines", async (t) =>
  engineContract(t, () => ortEngine({ threads: 1 })),
);

t.test("both engines give the same numbers on random graphs", async (t) => {
  const [ort, reference] = [ortEngine({ threads: 1 }), referenceEngine()];
  t.teardown(() => Promise.all([ort.close(), reference.close()]));
  const agree = fc.asyncProperty(graphPlans(), async (plan) => {
    const { builder, values, feed } = randomGraph(plan);
    for (const value of values) builder.output(value);
    const graph = builder.build(plan.steps.join("-"));
    const feeds = new Map([["x", feed]]);
    const [a, b] = await Promise.all([ort.load(graph), reference.load(graph)]);
    const [actual, expected] = await Promise.all([a.run(feeds), b.run(feeds)]);
    await a.close();
    checkFloat32(actual, expected);
  });
  await t.resolves(fc.assert(agree, { numRuns: 200, seed: 20 }));
});

t.test("the interpreter takes and gives float64 where a graph says float32", async (t) => {
  const builder = graphBuilder();
  const x = builder.input("x", "float32", [1]);
  builder.output(builder.op("Add", [x, builder.scalar(1)], {}, "y"));
  const graph = builder.build("precise");
  // A step that float32 (24 bits) would round away.
  const feed: Tensor = { dtype: "float64", shape: [1], data: Float64Array.of(2 ** -40) };
  const precise = await referenceEngine().load(graph);
  t.same(
    await precise.run(new Map([["x", feed]])),
    new Map([["y", { dtype: "float64", shape: [1], data: Float64Array.of(1 + 2 ** -40) }]]),
  );
  const ort = ortEngine({ threads: 1 });
  t.teardown(() => ort.close());
  const session = await ort.load(graph);
  await t.rejects(session.run(new Map([["x", feed]])), {
    code: "SESSION_FEED_INVALID",
    message: /x must be float32\[1\], got float64\[1\]/,
  });
});

t.test("the name of a constant stands for one constant", (t) => {
  const builder = graphBuilder();
  const one = builder.constant(float32([2], [1, Number.NaN]), "c");
  t.equal(builder.constant(float32([2], [1, Number.NaN]), "c"), one, "equal ones are shared");
  const place = { kind: "external", file: "/weights", offsetBytes: 0, lengthBytes: 8 } as const;
  const value = { name: "w", dtype: "float32", shape: [2] } as const;
  builder.initializer({ ...place, value });
  t.equal(builder.initializer({ ...place, value: { ...value } }).name, "w");
  const taken = (name: string) => ({
    code: "GRAPH_INVALID",
    message: `${name} already names another constant`,
  });
  t.throws(() => builder.constant(float32([2], [1, 2]), "c"), taken("c"));
  t.throws(() => builder.constant(float32([1, 2], [1, Number.NaN]), "c"), taken("c"));
  t.throws(() => builder.constant(int64([2], [1, 2]), "c"), taken("c"));
  t.throws(() => builder.initializer({ ...place, value, offsetBytes: 8 }), taken("w"));
  t.throws(() => builder.constant(float32([2], [1, 2]), "w"), taken("w"));
  t.end();
});

t.test("ONNX Runtime refuses weights that lie in two folders, naming both", async (t) => {
  const builder = graphBuilder();
  const place = { kind: "external", offsetBytes: 0, lengthBytes: 4 } as const;
  for (const name of ["a", "b"]) {
    const value = { name, dtype: "float32", shape: [1] } as const;
    const w = builder.initializer({ ...place, value, file: `/${name}/weights.bin` });
    builder.output(builder.op("Neg", [w], {}));
  }
  const engine = ortEngine({ threads: 1 });
  t.teardown(() => engine.close());
  await t.rejects(engine.load(builder.build("two")), {
    code: "SESSION_FAILED",
    message: /Graph two: .*2 folders, expected one: \/a, \/b/,
    cause: { code: "GRAPH_INVALID" },
  });
});

t.test("repeated indices accumulate to the same bytes on two threads, run after run", async (t) => {
  const [rows, width, count] = [50, 64, 4096] as const;
  const builder = graphBuilder();
  const table = builder.input("table", "float32", [rows, width]);
  const indices = builder.input("indices", "int64", [count, width]);
  const updates = builder.input("updates", "float32", [count, width]);
  builder.output(builder.op("ScatterElements", [table, indices, updates], { axis: 0 }, "sum"));
  const random = randomStream("scatter", 1);
  const uniform = (size: number) => Array.from({ length: size }, () => random.next());
  // About 80 updates hit every row: one index for a whole row of updates, as in an embedding's gradient.
  const places = Array.from({ length: count }, () => random.below(rows));
  const feeds = new Map<string, Tensor>([
    ["table", float32([rows, width], uniform(rows * width))],
    [
      "indices",
      int64(
        [count, width],
        places.flatMap((row) => new Array<number>(width).fill(row)),
      ),
    ],
    ["updates", float32([count, width], uniform(count * width))],
  ]);
  const [ort, reference] = [ortEngine({ threads: 2 }), referenceEngine()];
  t.teardown(() => ort.close());
  const graph = builder.build("scatter");
  const session = await ort.load(graph);
  const expected = (await (await reference.load(graph)).run(feeds)).get("sum");
  const first = (await session.run(feeds)).get("sum");
  const sums = Array.from(first?.data ?? [], Number);
  const errors = Array.from(expected?.data ?? [], Number).map((sum, i) =>
    Math.abs(sum - (sums[i] ?? Number.NaN)),
  );
  const error = Math.max(...errors);
  // About 80 float32 additions of numbers up to 80: 80 roundings of at most 4e-6 each.
  t.ok(error < 3e-4, `largest error ${error}`);
  for (let run = 1; run < 20; run++) {
    const { data } = (await session.run(feeds)).get("sum") ?? {};
    if (!t.same(data, first?.data, `run ${run}`)) break;
  }
});

t.test("a run leaves the main thread free and never happens on it", async (t) => {
  const engine = ortEngine({ threads: 1 });
  t.teardown(() => engine.close());
  const session = await engine.load(longGraph());
  let turns = 0;
  let done = false;
  const count = () => {
    turns += 1;
    if (!done) setImmediate(count);
  };
  count();
  await session.run(longFeeds());
  done = true;
  // A run of some 100 ms; a blocked loop would turn at most a handful of times around it.
  t.ok(turns > 100, `the event loop turned ${turns} times`);
  const loaded = Object.keys(createRequire(import.meta.url).cache);
  t.same(
    loaded.filter((file) => file.includes("onnxruntime-node")),
    [],
    "loaded in the worker only",
  );
  const worker = new URL(
    `../../runtime/session/worker${extname(import.meta.url)}`,
    import.meta.url,
  );
  await t.rejects(import(worker.href), { message: /must run in a worker thread/ });
});

t.test("closing an engine rejects what runs and waits, and lets the process live", async (t) => {
  const engine = ortEngine({ threads: 1 });
  const session = await engine.load(longGraph());
  const closed = { code: "SESSION_FAILED", message: "Graph long: The engine is closed" };
  const rejected = [0, 1].map(() => t.rejects(session.run(longFeeds()), closed));
  await Promise.all([...rejected, engine.close()]);
});

t.test("process.exit in the middle of a run ends with the code asked for", async (t) => {
  // The sum of eight products of 512 x 512 matrices runs for some 50 ms; exit comes with the next turn of the loop.
  const program = `
    const [{ graphBuilder }, { ortEngine }] = await Promise.all(${JSON.stringify(programModules())}.map((m) => import(m)));
    const builder = graphBuilder();
    const x = builder.input("x", "float32", [512, 512]);
    let y = x;
    for (let i = 0; i < 8; i++) y = builder.op("MatMul", [y, x], {});
    builder.output(y);
    const session = await ortEngine({ threads: 1 }).load(builder.build("exit"));
    session.run(new Map([["x", { dtype: "float32", shape: [512, 512], data: new Float32Array(512 * 512) }]]));
    setTimeout(() => process.exit(3), 10);`;
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program]);
  t.equal(stderr.toString(), "");
  t.equal(status, 3);
});

t.test("a process started with options of V8 has a worker thread", async (t) => {
  const file = join(t.testdir(), "program.mjs");
  await writeFile(
    file,
    `
    const [{ graphBuilder }, { ortEngine }] = await Promise.all(${JSON.stringify(programModules())}.map((m) => import(m)));
    const builder = graphBuilder();
    builder.output(builder.op("Neg", [builder.input("x", "float32", [1])], {}, "y"));
    const engine = ortEngine({ threads: 1 });
    const session = await engine.load(builder.build("negative"));
    const results = await session.run(new Map([["x", { dtype: "float32", shape: [1], data: Float32Array.of(2) }]]));
    process.stdout.write(String(results.get("y").data[0]));
    await engine.close();`,
  );
  const options = ["--max-old-space-size=256", file];
  const { stdout, stderr } = spawnSync(process.execPath, options);
  t.equal(stdout.toString(), "-2", stderr.toString());
});

t.test("an aborted engine waits for no native call, and a signal ends the process", async (t) => {
  // 4,000 products of 1,024 x 1,024 matrices: minutes on one thread.
  const program = `
    const [{ graphBuilder }, { ortEngine }, { awaitComputations }] = await Promise.all(
      ${JSON.stringify([...programModules(), moduleAddress("session/worker-channel")])}.map((m) => import(m)));
    const builder = graphBuilder();
    const x = builder.input("x", "float32", [1024, 1024]);
    let y = x;
    for (let i = 0; i < 4000; i++) y = builder.op("MatMul", [y, x], {});
    builder.output(y);
    const stop = new AbortController();
    const engine = ortEngine({ threads: 1, signal: stop.signal });
    const session = await engine.load(builder.build("endless"));
    const feeds = new Map([["x", { dtype: "float32", shape: [1024, 1024], data: new Float32Array(2 ** 20) }]]);
    const runs = [session.run(feeds), session.run(feeds), session.close().then(() => session.run(feeds))];
    setTimeout(() => stop.abort(new Error("enough")), 10);
    const settled = await Promise.allSettled(runs);
    const late = await engine.load(builder.build("late")).catch((error) => error.message);
    await Promise.all([engine.close(), engine.close()]);
    const texts = [...settled.map(({ reason }) => reason.message), late];
    process.stdout.write(JSON.stringify({ texts, isIdle: awaitComputations(0) }));
    process.removeAllListeners("SIGTERM");
    process.kill(process.pid, "SIGTERM");`;
  const { signal, stdout, stderr } = spawnSync(process.execPath, [
    "--input-type=module",
    "-e",
    program,
  ]);
  t.same(JSON.parse(stdout.toString()), {
    texts: ["enough", "enough", "enough", "enough"],
    isIdle: false,
  });
  t.equal(signal, "SIGTERM", stderr.toString());
});

t.test("a worker thread that dies fails what it owed and what comes after", async (t) => {
  for (const [program, message] of [
    ["process.exit(7)", "The worker thread stopped with code 7"],
    ["throw new Error('broken')", "The worker thread died: broken"],
  ] as const) {
    const channel = openWorkerChannel(new URL(`data:text/javascript,${program}`));
    const owed = [1, 2].map((session) => channel.ask("release", { session }));
    for (const asked of owed) await t.rejects(asked, { message });
    await t.rejects(channel.ask("release", { session: 3 }), { message });
    await Promise.all([channel.close(), channel.close()]);
  }
});

/** What a program of its own imports to build a graph and run it. */
function programModules(): readonly string[] {
  return ["graph/builder", "session/ort"].map(moduleAddress);
}

function moduleAddress(name: string): string {
  return new URL(`../../runtime/${name}${extname(import.meta.url)}`, import.meta.url).href;
}

/** x^13 of a [512, 512] matrix: some 100 ms on one thread. */
function longGraph(): Graph {
  const builder = graphBuilder();
  const x = builder.input("x", "float32", [512, 512]);
  let power = x;
  for (let i = 0; i < 12; i++) power = builder.op("MatMul", [power, x], {});
  builder.output(power);
  return builder.build("long");
}

function longFeeds(): Map<string, Tensor> {
  return new Map([["x", float32([512, 512])]]);
}
