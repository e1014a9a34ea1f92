// What the coordinator makes of a combined update. Numbers by hand or from a plain float64 rerun of the papers' lines.
import t, { type Test } from "tap";
import {
  applyUpdate,
  type ServerOptimizerOptions,
  serverRate,
  serverStep,
  weightedMean,
} from "../../protocols/aggregation/index.ts";
import { foldRound, taskSchema } from "../../protocols/index.ts";
import { float32, type Parameters, randomStream } from "../../runtime/index.ts";

const head = { kind: "classification", labels: ["a", "b"] };
const options = (optimizer: Partial<ServerOptimizerOptions> = {}): ServerOptimizerOptions =>
  taskSchema.parse({ name: "server", head, aggregation: { optimizer } }).aggregation.optimizer;

const bundle = (values: Readonly<Record<string, readonly number[]>>): Parameters =>
  new Map(Object.entries(values).map(([name, data]) => [name, float32([data.length], data)]));

const plain = (parameters: Parameters) =>
  Object.fromEntries([...parameters].map(([name, { data }]) => [name, [...data]]));

/** Values that float32 holds exactly round to themselves; others are within half a unit of its last place. */
const nearly = (t: Test, actual: number, expected: number, text: string) =>
  t.ok(Math.abs(actual - expected) <= 2 ** -24 * Math.abs(expected), `${text}: ${actual}`);

t.test("the default is to add the mean, bit for bit what a round has always been", async (t) => {
  const random = randomStream("server", "fold");
  const draw = () => Array.from({ length: 40 }, () => random.normal());
  const theta = bundle({ x: draw(), y: draw() });
  const contributions = ["a", "b", "c"].map((deviceId, i) => ({
    kind: "contribution" as const,
    deviceId,
    weight: i + 1,
    update: bundle({ x: draw(), y: draw() }),
  }));
  const { update, state } = serverStep(options(), weightedMean(contributions));
  const task = taskSchema.parse({ name: "server", head, full: { encoding: "float32" } });
  const start = { round: 0, parameters: theta };
  const folded = await foldRound(task, start, { results: contributions, servers: new Map() });
  t.same(applyUpdate(theta, update), folded.parameters);
  t.equal(state.size, 0, "there is nothing to remember");
});

t.test("fedavg scales the update by its rate", async (t) => {
  const { update } = serverStep(options({ rate: 0.5 }), bundle({ x: [1, -4] }));
  t.same(plain(update), { x: [0.5, -2] });
});

t.test("fedavgm adds up updates, each round less of the earlier ones", async (t) => {
  const settings = options({ kind: "fedavgm", momentum: 0.5, rate: 2 });
  const first = serverStep(settings, bundle({ x: [1, 4] }));
  const second = serverStep(settings, bundle({ x: [1, 0] }), first.state);
  t.same(plain(first.update), { x: [2, 8] });
  t.same(plain(second.update), { x: [2 * (0.5 + 1), 2 * (0.5 * 4)] });
  t.same(plain(second.state), { "momentum/x": [1.5, 2] });
});

t.test("fedadam's first step is the one of algorithm 2 by hand", async (t) => {
  const settings = options({ kind: "fedadam", rate: 3, momentum: 0.5, beta2: 0.75, epsilon: 2 });
  const { update, state } = serverStep(settings, bundle({ x: [4] }));
  // v = 0.75 * 2^2 + 0.25 * 4^2 = 7, m = 0.5 * 4 = 2.
  t.same(plain(state), { "momentum/x": [2], "variance/x": [7] });
  nearly(t, plain(update)["x"]?.[0] ?? 0, (3 * 2) / (Math.sqrt(7) + 2), "3 * 2 / (sqrt(7) + 2)");
});

t.test("fedyogi's variance falls by the square alone", async (t) => {
  const settings = options({ kind: "fedyogi", rate: 1, momentum: 0, beta2: 0.75, epsilon: 4 });
  const { update, state } = serverStep(settings, bundle({ low: [2], high: [8] }));
  // v = 16 - 0.25 * 4 = 15 and v = 16 + 0.25 * 64 = 32.
  t.same(plain(state)["variance/low"], [15]);
  t.same(plain(state)["variance/high"], [32]);
  nearly(t, plain(update)["low"]?.[0] ?? 0, 2 / (Math.sqrt(15) + 4), "2 / (sqrt(15) + 4)");
  nearly(t, plain(update)["high"]?.[0] ?? 0, 8 / (Math.sqrt(32) + 4), "8 / (sqrt(32) + 4)");
});

t.test("ten rounds of the adaptive ones follow the papers' lines in float64", async (t) => {
  for (const kind of ["fedadam", "fedyogi"] as const) {
    const random = randomStream("server", kind);
    const settings = options({ kind });
    let state: Parameters = new Map();
    let [m, v] = [0, 1e-6];
    for (let round = 0; round < 10; round++) {
      const delta = Math.fround(random.normal() * 0.01);
      const step = serverStep(settings, bundle({ x: [delta] }), state);
      state = step.state;
      m = 0.9 * m + 0.1 * delta;
      const square = delta ** 2;
      if (kind === "fedadam") v = 0.99 * v + 0.01 * square;
      else v -= 0.01 * square * (v > square ? 1 : -1);
      const expected = (0.01 * m) / (Math.sqrt(v) + 1e-3);
      // The state is kept in float32, so each round adds an error of 6e-8 to both moments.
      t.ok(
        Math.abs((plain(step.update)["x"]?.[0] ?? 0) - expected) < 1e-5 * 0.01,
        `round ${round}`,
      );
    }
  }
});

t.test("a tensor that nobody carried keeps its moments and gets no update", async (t) => {
  const settings = options({ kind: "fedavgm" });
  const first = serverStep(settings, bundle({ x: [1], y: [2] }));
  const second = serverStep(settings, bundle({ x: [1] }), first.state);
  t.same([...second.update.keys()], ["x"]);
  t.same(second.state.get("momentum/y"), first.state.get("momentum/y"));
});

t.test("ranks that nobody carried keep their moments, whichever came first", async (t) => {
  const name = "h.0.lora_B.weight";
  const settings = options({ kind: "fedavgm", momentum: 0.5 });
  const two = new Map([[name, float32([2, 2], [1, 2, 3, 4])]]);
  const one = new Map([[name, float32([2, 1], [10, 30])]]);
  const down = serverStep(settings, one, serverStep(settings, two).state);
  t.same(down.update.get(name), float32([2, 1], [10.5, 31.5]));
  t.same(down.state.get(`momentum/${name}`), float32([2, 2], [10.5, 2, 31.5, 4]));
  const up = serverStep(settings, two, serverStep(settings, one).state);
  t.same(up.update.get(name), float32([2, 2], [6, 2, 18, 4]));
});

t.test("what goes in is left as it was, and equal inputs give equal bytes", async (t) => {
  const settings = options({ kind: "fedyogi" });
  const delta = bundle({ x: [0.1, -0.2] });
  const { state } = serverStep(settings, delta);
  const before = plain(state);
  t.same(serverStep(settings, delta, state), serverStep(settings, delta, state));
  t.same(plain(state), before);
  t.same(plain(delta), plain(bundle({ x: [0.1, -0.2] })));
});

t.test("the rate that a task leaves out is the kind's own", async (t) => {
  const rates = (["fedavg", "fedavgm", "fedadam", "fedyogi"] as const).map((kind) =>
    serverRate(options({ kind })),
  );
  t.same(rates, [1, 1, 0.01, 0.01]);
  t.equal(serverRate(options({ kind: "fedadam", rate: 0.3 })), 0.3);
});
