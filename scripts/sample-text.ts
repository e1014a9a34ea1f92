// A sample of a language model's text, so that a person sees what pretraining taught it.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  baseModelFromTensors,
  type Engine,
  type Gpt2Config,
  loadPredictor,
  makeBatch,
  type Parameters,
  randomStream,
  type Tokenizer,
} from "../runtime/index.ts";

/** What is sampled from. */
export interface SampleOptions {
  readonly engine: Engine;
  readonly config: Gpt2Config;
  /** Every tensor of the checkpoint. */
  readonly parameters: Parameters;
  readonly tokenizer: Tokenizer;
  readonly prompt: string;
  /** Tokens to add. */
  readonly length: number;
  readonly seed: number;
}

/** The prompt and its continuation, drawn at temperature 0.8 from the 40 likeliest tokens. */
export async function sampleText(options: SampleOptions): Promise<string> {
  const { engine, config, parameters, tokenizer, prompt, length, seed } = options;
  const cacheFolder = await mkdtemp(join(tmpdir(), "trifold-sample-"));
  try {
    const model = await baseModelFromTensors(config, parameters, { cacheFolder });
    const shape = { batch: 1, sequence: config.positions, padTokenId: config.padTokenId };
    const lora = { rank: 1, alpha: 1, targets: [] };
    const predictor = await loadPredictor(engine, { model, lora, head: { kind: "lm" }, ...shape });
    const tokens = [...tokenizer.encode(prompt)];
    const random = randomStream(seed, "sample");
    for (let i = 0; i < length; i++) {
      const window = tokens.slice(-shape.sequence);
      const { feeds } = makeBatch([{ tokens: window, label: -1 }], shape);
      const logits = await predictor.run(new Map(), feeds);
      const row = logits.data.subarray(
        (window.length - 1) * config.vocabSize,
        window.length * config.vocabSize,
      );
      tokens.push(draw(row, random.next()));
    }
    await predictor.close();
    return tokenizer.decode(tokens);
  } finally {
    await rm(cacheFolder, { recursive: true, force: true });
  }
}

/** The token at quantile `chance` of the 40 likeliest at temperature 0.8. */
function draw(logits: Float32Array, chance: number): number {
  const likeliest = [...logits.keys()]
    .sort((a, b) => (logits[b] as number) - (logits[a] as number))
    .slice(0, 40);
  const top = logits[likeliest[0] as number] as number;
  const odds = likeliest.map((token) => Math.exp(((logits[token] as number) - top) / 0.8));
  let left = chance * odds.reduce((sum, value) => sum + value, 0);
  for (const [i, token] of likeliest.entries()) {
    left -= odds[i] as number;
    if (left <= 0) return token;
  }
  return likeliest[0] as number;
}
