// `trifold generate` on the embedded model, against plain forward passes.
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { embeddedModelFolder } from "../../apps/package-root.ts";
import { type GenerationRequest, generateText } from "../../apps/train/generation.ts";
import {
  type BaseModel,
  initialParameters,
  loadPredictor,
  makeBatch,
  openBaseModel,
  openTokenizer,
  ortEngine,
  type Parameters,
  randomStream,
  saveAdapter,
} from "../../runtime/index.ts";
import { runTrifold } from "./program.ts";

const root = t.testdir();
const cacheFolder = join(root, "cache");
const environment = { TRIFOLD_CACHE: cacheFolder };
const model = await openBaseModel(embeddedModelFolder(), { cacheFolder });
const tokenizer = await openTokenizer(embeddedModelFolder());
const prompt =
  "The Congress of the United States shall have power to lay and collect taxes, and the President";
const lora = { rank: 2, alpha: 4, targets: ["all-linear"], rsLora: true };
const head = { kind: "lm" } as const;

function request(more: Partial<GenerationRequest> = {}): GenerationRequest {
  return {
    model: embeddedModelFolder(),
    prompt,
    maxTokens: 30,
    sampling: { temperature: 0, seed: 1 },
    threads: 1,
    cacheFolder,
    signal: new AbortController().signal,
    log: () => undefined,
    onText: () => undefined,
    ...more,
  };
}

/** The next token by one forward pass over exactly these tokens, all positions computed, nothing padded. */
async function plainNext(model: BaseModel, parameters: Parameters, tokens: readonly number[]) {
  const engine = ortEngine({ threads: 1 });
  const sequence = tokens.length;
  const spec = { model, lora, head, batch: 1, sequence };
  const predictor = await loadPredictor(engine, spec);
  const shape = { batch: 1, sequence, padTokenId: 0 };
  const { data } = await predictor.run(parameters, makeBatch([{ tokens, label: -1 }], shape).feeds);
  await engine.close();
  const last = data.subarray(-model.config.vocabSize);
  return last.indexOf(Math.max(...last));
}

t.test("greedy tokens are those of plain forward passes, across growing graphs", async (t) => {
  const random = randomStream("generate");
  const parameters = new Map(
    [...initialParameters(model.config, lora, head, 1)].map(([name, tensor]) => [
      name,
      { ...tensor, data: tensor.data.map(() => 0.03 * random.normal()) },
    ]),
  );
  const adapter = join(root, "adapter");
  await saveAdapter(adapter, { lora, head, parameters, baseModelName: "sotu-gpt2" });
  const report = await generateText(request({ adapter, maxTokens: 24 }));
  const { promptTokens, tokens, stop } = report;
  t.equal(stop, "maxTokens");
  t.equal(tokens.length, 24);
  t.ok(promptTokens.length < 32 && promptTokens.length + 23 > 32, "a second graph was needed");
  for (const [index, token] of tokens.entries()) {
    const before = [...promptTokens, ...tokens.slice(0, index)];
    t.equal(token, await plainNext(model, parameters, before), `token ${index}`);
  }
  const bare = await generateText(request({ maxTokens: 24 }));
  t.notSame(bare.tokens, tokens, "the adapter makes a difference");
});

t.test("a text goes on to the last position and no further", async (t) => {
  const { promptTokens, tokens, stop } = await generateText(request({ maxTokens: 1000 }));
  t.equal(stop, "positions");
  // The last one is foreseen from as many tokens as the model has positions.
  t.equal(promptTokens.length + tokens.length, model.config.positions + 1);
  const long = generateText(request({ prompt: prompt.repeat(20) }));
  await t.rejects(long, { code: "OPTION_INVALID", message: /takes at most 128/ });
  const begun = await generateText(request({ prompt: "", maxTokens: 3 }));
  t.same(begun.promptTokens, tokenizer.encode("<|endoftext|>"), "texts begin where others end");
  const nameless = join(root, "nameless");
  await cp(embeddedModelFolder(), nameless, { recursive: true });
  await rm(join(nameless, "tokenizer_config.json"));
  const empty = generateText(request({ prompt: "", model: nameless }));
  await t.rejects(empty, { code: "OPTION_INVALID", message: /--prompt is empty/ });
});

t.test("draws depend on the seed, and parts make the text", async (t) => {
  const draw = async (seed: number) => {
    const parts: string[] = [];
    const sampling = { temperature: 1, topK: 50, topP: 0.95, seed };
    const report = await generateText(request({ sampling, onText: (part) => parts.push(part) }));
    t.equal(parts.join(""), report.text);
    t.ok(parts.length > 10, "it comes in parts");
    const whole = tokenizer.decode([...report.promptTokens, ...report.tokens]);
    t.equal(`${report.prompt}${report.text}`, whole);
    return report.tokens;
  };
  const [a, b, c] = [await draw(1), await draw(1), await draw(2)];
  t.same(a, b);
  t.notSame(a, c);
});

t.test("the program streams the text, or prints one JSON document", async (t) => {
  const args = ["generate", "--prompt", prompt, "--max-tokens", "8", "--threads", "1"];
  const streamed = await runTrifold(args, environment);
  t.equal(streamed.status, 0, streamed.stderr);
  const json = await runTrifold([...args, "--json"], environment);
  const report = JSON.parse(json.stdout);
  t.equal(streamed.stdout, `${prompt}${report.text}\n`);
  t.equal(report.tokens.length, 8);
  t.equal(report.stop, "maxTokens");
});

t.test("what cannot go on is refused with a code, status 2 and no output", async (t) => {
  const classifier = join(root, "classifier");
  const settings = { kind: "classification", classes: 2 } as const;
  const parameters = initialParameters(model.config, lora, settings, 1);
  await saveAdapter(classifier, { lora, head: settings, parameters, baseModelName: "x" });
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["--adapter", classifier, "--prompt", "a"], /error OPTION_INVALID: .*classifier/],
    [["--prompt", "a", "--top-p", "1.5"], /error USAGE_INVALID: .*up to 1/],
    [["--prompt", "a", "--temperature", "-1"], /error USAGE_INVALID: .*at least 0/],
    [["--prompt", "a", "--model", root], /error MODEL_FOLDER_INVALID: .*config\.json/],
    [["--prompt", prompt.repeat(20)], /error OPTION_INVALID: --prompt has \d+ tokens/],
  ];
  for (const [args, text] of cases) {
    const { status, stdout, stderr } = await runTrifold(["generate", ...args], environment);
    t.equal(status, 2, args.join(" "));
    t.equal(stdout, "");
    t.match(stderr, text);
    t.match(stderr, /hint: /);
  }
});
