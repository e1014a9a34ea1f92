// The runtime alone: an adapter on the embedded model from a handful of texts, saved for PEFT.
// After a build: node examples/library.mjs [MODEL_FOLDER]
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  initialParameters,
  loadStep,
  makeBatch,
  openBaseModel,
  openTokenizer,
  ortEngine,
  saveAdapter,
  train,
} from "trifold/runtime";

const folder = process.argv[2] ?? "models/sotu-gpt2";
const out = await mkdtemp(join(tmpdir(), "trifold-example-"));
const labels = ["war", "peace"];
const texts = [
  ["The enemy has crossed the border and our troops have met him.", 0],
  ["Commerce with all nations prospers and the treasury is full.", 1],
];

const model = await openBaseModel(folder, { cacheFolder: join(out, "cache") });
const tokenizer = await openTokenizer(folder);
const lora = { rank: 4, alpha: 8, targets: ["c_attn"] };
const head = { kind: "classification", classes: labels.length };
const shape = { batch: texts.length, sequence: 32 };

const engine = ortEngine({ threads: 1 });
const step = await loadStep(engine, { model, lora, head, ...shape });
const examples = texts.map(([text, label]) => ({ tokens: tokenizer.encode(text), label }));
const { feeds } = makeBatch(examples, { ...shape, padTokenId: model.config.padTokenId });

const losses = [];
const { parameters } = await train({
  step,
  initial: initialParameters(model.config, lora, head, 1),
  batches: Array(20).fill(feeds),
  rateAt: () => 3e-3,
  maxGradientNorm: 1,
  onStep: ({ loss }) => losses.push(loss),
});
await engine.close();

const adapter = join(out, "adapter");
await saveAdapter(adapter, { lora, head, labels, parameters, baseModelName: folder });
const [first, last] = [losses.at(0), losses.at(-1)].map((loss) => loss.toFixed(3));
process.stdout.write(`loss ${first} -> ${last}, adapter in ${adapter}\n`);
