// `split` in its variants: where the model is cut, which side holds what, and what crosses.
import { isDeepStrictEqual } from "node:util";
import t from "tap";
import {
  type AnyProtocol,
  builtInProtocols,
  type Payload,
  protocolContract,
} from "../../protocols/index.ts";
import { openFederation, playRounds, type Round, type ToyDevice } from "./loopback.ts";
import { openToy, type TaskInput, type Toy, toyExamples } from "./toy.ts";

const whole: readonly ToyDevice[] = [
  { id: "a", protocol: "full", train: toyExamples("a", 13) },
  { id: "b", protocol: "full", train: toyExamples("b", 3) },
  { id: "c", protocol: "full", train: toyExamples("c", 21) },
];
const cutAt = (device: ToyDevice, cutLayer: number): ToyDevice => ({
  ...device,
  protocol: "split",
  cutLayer,
});

const play = (toy: Toy, settings: TaskInput, devices: readonly ToyDevice[], rounds?: number) =>
  playRounds(toy, toy.task(settings), devices, rounds);

const parametersAfter = (rounds: readonly Round[]) => (rounds.at(-1) as Round).global.parameters;
const messagesOf = (rounds: readonly Round[], id: string): Payload[] =>
  rounds.flatMap(({ devices }) => [
    ...(devices.get(id)?.ups ?? []),
    ...(devices.get(id)?.downs ?? []),
  ]);

t.test("a U-shape trains the very model of whole devices, wherever its two cuts are", async (t) => {
  for (const family of ["gpt2", "llama"] as const) {
    const toy = await openToy(t, { family });
    // Gradients here have norms of 0.3 to 3: the bound clips every step, over three parts.
    const training = { maxGradientNorm: 0.05, weightDecay: 0.01 };
    const settings = { adapter: adapterOf(family), training };
    const expected = parametersAfter(await play(toy, settings, whole));
    for (const [cutLayer, tailLayers] of [
      [1, 0],
      [2, 0],
      [3, 0],
      [1, 1],
      [2, 1],
      [1, 2],
    ] as const) {
      const devices = whole.map((device, i) => (i === 1 ? device : cutAt(device, cutLayer)));
      const wire = { activations: "float32", gradients: "float32" };
      const split = { ...wire, uShape: true, tailLayers };
      const played = await play(toy, { ...settings, labelsMayLeave: false, split }, devices);
      const place = `${family}: front of ${cutLayer}, tail of ${tailLayers}`;
      t.ok(isDeepStrictEqual(parametersAfter(played), expected), place);
    }
  }
});

function adapterOf(family: "gpt2" | "llama") {
  const targets = family === "gpt2" ? ["c_attn", "mlp.c_fc"] : ["q_proj", "mlp.up_proj"];
  return { rank: 2, alpha: 4, targets, dropout: 0.3 };
}

t.test("a language model is cut in a U-shape alone, and trains as a whole one does", async (t) => {
  const toy = await openToy(t);
  const settings = { head: { kind: "lm" }, training: { maxGradientNorm: 0.05 } } as const;
  const holdOut = toyExamples("hold-out", 6);
  const devices = whole.map((device) => ({ ...device, holdOut }));
  const wire = { activations: "float32", gradients: "float32" };
  const expected = await play(toy, settings, devices);
  for (const [cutLayer, tailLayers] of [
    [1, 0],
    [2, 1],
  ] as const) {
    const split = { ...wire, uShape: true, tailLayers };
    const cut = devices.map((device) => cutAt(device, cutLayer));
    const played = await play(toy, { ...settings, labelsMayLeave: false, split }, cut);
    t.ok(isDeepStrictEqual(parametersAfter(played), parametersAfter(expected)));
    const reports = [played, expected].map((rounds) => rounds[1]?.devices.get("c")?.report);
    t.equal(reports[0]?.loss, reports[1]?.loss);
    t.equal(reports[0]?.perplexity, reports[1]?.perplexity);
    t.ok((reports[0]?.perplexity ?? 0) > 1);
  }
  const between = toy.task({ ...settings, labelsMayLeave: true });
  await t.rejects(openFederation(toy, between, [cutAt(whole[0] as ToyDevice, 1)]), {
    code: "PROTOCOL_LABELS_WOULD_LEAVE",
    message: /the private texts themselves/,
  });
});

t.test("no label and no loss of a U-shape leaves its device", async (t) => {
  const toy = await openToy(t);
  const device = { ...cutAt(whole[0] as ToyDevice, 1), holdOut: toyExamples("hold-out", 6) };
  const narrow = { activations: "float32", gradients: "float32" };
  const between = await play(toy, { split: narrow }, [device], 1);
  const uShape = { ...narrow, uShape: true };
  const apart = await play(toy, { split: uShape, labelsMayLeave: false }, [device], 1);
  const names = (rounds: readonly Round[]) =>
    new Set(messagesOf(rounds, "a").flatMap(({ fields }) => Object.keys(fields)));
  t.ok(names(between).has("labels") && names(between).has("loss"));
  t.notOk(names(apart).has("labels") || names(apart).has("loss"));
  const kinds = new Set(messagesOf(apart, "a").map(({ kind }) => kind));
  t.same([...kinds].sort(), ["activations", "evaluate", "front", "gradient", "states", "update"]);
  const reports = [between, apart].map((rounds) => rounds[0]?.devices.get("a")?.report);
  t.equal(reports[1]?.loss, reports[0]?.loss, "the loss is known on the device");
  t.equal(reports[1]?.accuracy, reports[0]?.accuracy, "and so is the score of the hold-out");
});

t.test("only real tokens cross a cut", async (t) => {
  const toy = await openToy(t);
  const device = cutAt(whole[0] as ToyDevice, 2);
  for (const split of [{ uShape: false }, { uShape: true }]) {
    const [round] = await play(toy, { split: { ...split, activations: "float32" } }, [device], 1);
    const { ups = [], downs = [] } = round?.devices.get("a") ?? {};
    const sent = ups.filter(({ kind }) => kind === "activations");
    t.equal(sent.length, 4);
    for (const { fields, tensors } of sent) {
      const tokens = (fields["lengths"] as number[]).reduce((sum, length) => sum + length, 0);
      t.same(tensors.get("activations")?.shape, [tokens, 32]);
      t.equal(tensors.get("activations")?.bytes.length, 4 * 32 * tokens);
    }
    const states = downs.filter(({ kind }) => kind === "states");
    for (const { tensors } of states) {
      t.same(tensors.get("states")?.shape, [4, 32], "of each text the one that a classifier reads");
    }
  }
});

t.test("a U-shape keeps the contract", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  const protocol = builtInProtocols.find(({ name }) => name === "split") as AnyProtocol;
  const task = toy.task({ split: { uShape: true, tailLayers: 1 }, labelsMayLeave: false });
  protocolContract(t, protocol, {
    task,
    engine,
    model,
    publicSet,
    train: toyExamples("train", 14),
    holdOut: toyExamples("hold-out", 6),
    cutLayer: 1,
  });
});
