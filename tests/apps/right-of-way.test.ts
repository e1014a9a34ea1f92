// Scoring beside lanes on one engine.
import t from "tap";
import { rightOfWay } from "../../apps/coordinator/right-of-way.ts";
import type { Engine, Graph, Session } from "../../runtime/index.ts";

/** An engine whose runs end when told to, in the order in which they began. */
function heldEngine() {
  const order: string[] = [];
  const waiting: (() => void)[] = [];
  const engine: Engine = {
    name: "held",
    load: async (graph: Graph): Promise<Session> => ({
      graph,
      run: async () => {
        order.push(graph.name);
        await new Promise<void>((resolve) => waiting.push(resolve));
        return new Map();
      },
      close: async () => {},
    }),
    close: async () => {
      order.push("closed");
    },
  };
  return { engine, order, finish: () => waiting.shift()?.() };
}

const named = (name: string) => ({ name }) as Graph;
const turns = async (): Promise<void> => {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
};

t.test("a batch of scoring waits for every urgent run, the next one included", async (t) => {
  const { engine, order, finish } = heldEngine();
  const { urgent, patient } = rightOfWay(engine);
  const [lane, score] = [await urgent.load(named("lane")), await patient.load(named("score"))];
  const lanes = (async () => {
    await lane.run(new Map());
    await lane.run(new Map());
  })();
  const scoring = score.run(new Map());
  await turns();
  finish();
  await turns();
  t.same(order, ["lane", "lane"]);
  finish();
  await lanes;
  await turns();
  t.same(order, ["lane", "lane", "score"]);
  finish();
  await scoring;
});

t.test("an urgent run waits for nothing, and a failed one gives the way free", async (t) => {
  const { engine, order, finish } = heldEngine();
  const failing: Engine = { ...engine, load: () => Promise.reject(new Error("no such graph")) };
  const { urgent, patient } = rightOfWay(failing);
  await t.rejects(urgent.load(named("lane")), { message: "no such graph" });
  await t.rejects(patient.load(named("score")), { message: "no such graph" });
  const both = rightOfWay(engine);
  const score = await both.patient.load(named("score"));
  const lane = await both.urgent.load(named("lane"));
  const runs = [score.run(new Map()), lane.run(new Map())];
  await turns();
  t.same(order, ["score", "lane"]);
  for (const _ of runs) finish();
  await Promise.all(runs);
  await both.urgent.close();
  t.equal(order.at(-1), "closed");
});
