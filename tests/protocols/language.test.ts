// Tasks of a language model: what devices learn and report of texts without labels.
import t from "tap";
import { boardProfile } from "../../devices/index.ts";
import { assignDevice, builtInProtocols, modelSpec } from "../../protocols/index.ts";
import { type Example, loadPredictor, makeBatch, type Parameters } from "../../runtime/index.ts";
import { openFederation, type ToyDevice } from "./loopback.ts";
import { openToy, toyExamples } from "./toy.ts";

/** Texts that the model can learn to go on from: each counts up from a random token. */
const counting = (name: string, count: number): Example[] =>
  toyExamples(name, count).map(({ tokens: [first = 0, ...rest] }) => ({
    tokens: [first, ...rest].map((_, i) => (first + i) % 64),
    label: -1,
  }));

t.test(
  "full devices learn to go on from texts and report the perplexity of their hold-out",
  async (t) => {
    const toy = await openToy(t);
    const task = toy.task({
      head: { kind: "lm" },
      training: { localSteps: 20, learningRate: 0.03 },
    });
    const holdOut = counting("hold-out", 9);
    const devices: ToyDevice[] = ["a", "b"].map((id) => {
      return { id, protocol: "full", train: counting(id, 60), ...(id === "b" ? { holdOut } : {}) };
    });
    const federation = await openFederation(toy, task, devices);
    const first = await federation.round(federation.start);
    const second = await federation.round(first.global);
    await federation.close();
    const reports = [first, second].map(({ devices: all }) => all.get("b")?.report);
    const [before = 0, after = 0] = reports.map((report) => report?.perplexity);
    t.ok(after < before, `from ${before} to ${after}`);
    // A text goes on in one of 64 ways; knowing nothing is a perplexity of 64.
    t.ok(after < 40, `${after}`);
    t.equal(second.devices.get("a")?.report.perplexity, undefined, "no hold-out, no perplexity");
    t.equal(reports[1]?.accuracy, undefined);
    t.notOk([...federation.start.parameters.keys()].some((name) => name.includes("score")));
  },
);

t.test("a perplexity is that of the softmax over all logits", async (t) => {
  const toy = await openToy(t);
  // No step: the report scores the very parameters that came down.
  const task = toy.task({ head: { kind: "lm" }, training: { localSteps: 1, learningRate: 1e-12 } });
  const holdOut = counting("hold-out", 9);
  const device: ToyDevice = { id: "a", protocol: "full", train: counting("a", 8), holdOut };
  const federation = await openFederation(toy, task, [device]);
  const { devices } = await federation.round(federation.start);
  await federation.close();
  const predictor = await loadPredictor(toy.engine, modelSpec(task, toy.model));
  const expected = await perplexityOf(predictor.run, federation.start.parameters, holdOut);
  await predictor.close();
  const actual = devices.get("a")?.report.perplexity ?? 0;
  // The loss is computed in float32 from logits of some tens.
  t.ok(Math.abs(actual / expected - 1) < 1e-5, `${actual} and ${expected}`);
});

/** exp of the mean of -log p of every next token, in float64 from the logits. */
async function perplexityOf(
  run: Awaited<ReturnType<typeof loadPredictor>>["run"],
  parameters: Parameters,
  examples: readonly Example[],
): Promise<number> {
  const shape = { batch: 4, sequence: 12, padTokenId: 0 };
  let total = 0;
  let count = 0;
  for (let start = 0; start < examples.length; start += shape.batch) {
    const batch = examples.slice(start, start + shape.batch);
    const { data } = await run(parameters, makeBatch(batch, shape).feeds); // [tokens, vocab]
    batch.forEach(({ tokens }, row) => {
      for (let i = 0; i + 1 < Math.min(tokens.length, shape.sequence); i++) {
        const at = (row * shape.sequence + i) * 64;
        const logits = [...data.subarray(at, at + 64)];
        const sum = logits.reduce((all, logit) => all + Math.exp(logit), 0);
        total += Math.log(sum) - (logits[tokens[i + 1] as number] as number);
        count += 1;
      }
    });
  }
  return Math.exp(total / count);
}

t.test("split is refused for a language model, whose labels are the texts", async (t) => {
  const toy = await openToy(t);
  const task = toy.task({ head: { kind: "lm" }, selection: { order: ["split"] } });
  const offer = {
    deviceId: "a",
    profile: boardProfile("pi-5"),
    budget: {},
    holdOut: 2,
    protocols: Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version])),
  };
  const { assignment, table } = assignDevice(builtInProtocols, task, offer);
  t.equal(assignment, undefined);
  t.match(table[0]?.text, /labels of a language model are the private texts/);
});
