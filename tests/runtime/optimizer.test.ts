// Optimizers, schedules and smoothed losses against PyTorch's numbers (scripts/goldens/training.py).
import { readFileSync } from "node:fs";
import t, { type Test } from "tap";
import { gradients, lossSeed } from "../../runtime/autodiff/backward.ts";
import {
  createOptimizer,
  type Engine,
  type Float32Tensor,
  float32,
  graphBuilder,
  int64,
  type OptimizerSettings,
  ortEngine,
  type Parameters,
  referenceEngine,
  type ScheduleKind,
  scheduledRate,
  type Value,
} from "../../runtime/index.ts";
import { labelLoss, languageLoss } from "../../runtime/models/heads.ts";

interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: readonly number[];
}
type GoldenTensors = Readonly<Record<string, GoldenTensor>>;
interface GoldenRun {
  readonly weightDecay: number;
  readonly momentum?: number;
  readonly start: GoldenTensors;
  readonly rates: readonly number[];
  readonly gradients: readonly GoldenTensors[];
  readonly after: readonly GoldenTensors[];
  readonly moments: Readonly<Record<string, GoldenTensors>>;
}
interface GoldenSchedule {
  readonly kind: ScheduleKind;
  readonly rate: number;
  readonly warmUpSteps: number;
  readonly totalSteps: number;
  readonly finalFraction: number;
  readonly rates: readonly number[];
}
interface GoldenLoss {
  readonly x: GoldenTensor;
  readonly wte?: GoldenTensor;
  readonly labels: GoldenTensor;
  readonly smoothing: number;
  readonly loss: GoldenTensor;
  readonly gradient: GoldenTensor;
}
interface Golden {
  readonly adamw: GoldenRun;
  readonly sgd: GoldenRun;
  readonly schedules: readonly GoldenSchedule[];
  readonly classification: GoldenLoss;
  readonly lm: GoldenLoss;
}
const golden = JSON.parse(readFileSync("tests/goldens/training.json", "utf8")) as Golden;

for (const kind of ["adamw", "sgd"] as const) {
  t.test(`${kind} steps and moments are PyTorch's, also when it goes on from a state`, (t) => {
    const { start, rates, gradients, after, moments, weightDecay, momentum } = golden[kind];
    const settings: OptimizerSettings =
      kind === "sgd" ? { kind, weightDecay, momentum: momentum ?? 0 } : { kind, weightDecay };
    let optimizer = createOptimizer(settings, bundle(start));
    for (const [step, rate] of rates.entries()) {
      // Halved here and doubled there: exact in binary.
      const halves = bundle(gradients[step] as GoldenTensors, 0.5);
      optimizer.step(halves, { rate, scale: 2 });
      isNear(t, optimizer.parameters, after[step] as GoldenTensors, `step ${step}`);
      optimizer = createOptimizer(settings, optimizer.parameters, optimizer.state());
    }
    const state = optimizer.state();
    t.equal(state.steps, rates.length);
    t.same([...state.moments.keys()].sort(), Object.keys(moments).sort());
    for (const [name, expected] of Object.entries(moments)) {
      isNear(t, state.moments.get(name) as Parameters, expected, name);
    }
    t.end();
  });
}

t.test("an optimizer copies what it starts from", (t) => {
  const start = bundle(golden.adamw.start);
  const first = createOptimizer({ kind: "adamw" }, start);
  const second = createOptimizer({ kind: "adamw" }, first.parameters, first.state());
  second.step(bundle(golden.adamw.gradients[0] as GoldenTensors), { rate: 0.1 });
  t.same(first.parameters, start);
  t.ok(
    first
      .state()
      .moments.get("first")
      ?.get("a")
      ?.data.every((value) => value === 0),
  );
  t.end();
});

t.test("learning rates are those of PyTorch's schedulers", (t) => {
  for (const { rates, ...schedule } of golden.schedules) {
    const title = `${schedule.kind} after ${schedule.warmUpSteps} steps of warm-up`;
    const actual = rates.map((_, step) => scheduledRate(schedule, step));
    // Both sides compute in float64, the schedulers by recurrence: ten roundings.
    t.ok(
      actual.every(
        (rate, i) => Math.abs(rate - (rates[i] as number)) < 1e-14 * schedule.rate * 100,
      ),
      `${title}: ${actual}, expected ${rates}`,
    );
    t.equal(scheduledRate(schedule, 99), actual.at(-1), "steps behind the last have its rate");
  }
  t.end();
});

t.test("smoothed losses of both heads and their gradients are PyTorch's", async (t) => {
  for (const head of ["classification", "lm"] as const) {
    const { x, wte, labels, smoothing, loss, gradient } = golden[head];
    const b = graphBuilder();
    const input = b.input("x", "float32", x.shape);
    const ids = b.constant(int64(labels.shape, labels.data));
    const rows = labels.data.length;
    const weights = b.constant(float32([rows], new Float32Array(rows).fill(1 / rows)));
    const targets = { labels: ids, weights, smoothing };
    const table = wte && b.constant(float32(wte.shape, wte.data), "wte.weight");
    const product = { alpha: 1, transA: false, transB: true };
    const value = table
      ? languageLoss(
          { b },
          {
            ...targets,
            states: input,
            matrix: table,
            pieces: [b.op("Gemm", [input, table], product)],
          },
        )
      : labelLoss({ b }, { ...targets, logits: input });
    const [dx] = gradients(b, [lossSeed(b, value)], [input]) as [Value];
    b.output(value);
    b.output(dx);
    const graph = b.build("smoothed");
    const feeds = new Map([["x", float32(x.shape, x.data)]]);
    // The interpreter computes in float64, but for weights and smoothing rounded to float32 (6e-8) in sums of ten terms.
    await compare(t, referenceEngine(), 1e-6);
    // Float32 throughout: a few times as much.
    const engine = ortEngine({ threads: 1 });
    await compare(t, engine, 5e-6);
    await engine.close();

    async function compare(t: Test, engine: Engine, tolerance: number) {
      const session = await engine.load(graph);
      const results = await session.run(feeds);
      const isClose = (name: string, expected: GoldenTensor) =>
        expected.data.every(
          (value, i) => Math.abs(Number(results.get(name)?.data[i]) - value) < tolerance,
        );
      t.ok(isClose(value.name, loss), `${head} loss on ${engine.name}`);
      t.ok(isClose(dx.name, gradient), `${head} gradient on ${engine.name}`);
    }
  }
});

function bundle(tensors: GoldenTensors, scale = 1): Parameters {
  return new Map(
    Object.entries(tensors).map(([name, { shape, data }]): [string, Float32Tensor] => [
      name,
      float32(
        shape,
        data.map((value) => scale * value),
      ),
    ]),
  );
}

/** Values around 1 are stored in float32 after each of five steps: five roundings of 6e-8. */
function isNear(t: Test, actual: Parameters, expected: GoldenTensors, title: string): void {
  for (const [name, { data }] of Object.entries(expected)) {
    const values = actual.get(name)?.data ?? [];
    const isClose = data.every(
      (value, i) => Math.abs((values[i] as number) - value) < 4e-7 * Math.max(1, Math.abs(value)),
    );
    t.ok(isClose, `${title} ${name}: ${values}, expected ${data}`);
  }
}
