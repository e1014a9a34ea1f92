// Text by next tokens: how a token is chosen, where a text ends, which tokens are special.
import { join } from "node:path";
import t from "tap";
import {
  chooseToken,
  type GenerationOptions,
  generateTokens,
  readSpecialTokens,
  type Sampling,
} from "../../runtime/index.ts";

// Probabilities 0.1, 0.2, 0.3 and 0.4 at temperature 1.
const logits = Float32Array.from([1, 2, 3, 4], Math.log);

t.test("at temperature 0 the first of the largest logits is taken", (t) => {
  t.equal(chooseToken(logits, { temperature: 0, seed: 1 }, 0), 3);
  t.equal(chooseToken(Float32Array.of(2, 7, 7), { temperature: 0, seed: 1 }, 0), 1);
  t.end();
});

const laws: readonly (readonly [Omit<Sampling, "seed">, readonly number[]])[] = [
  [{ temperature: 1 }, [0.1, 0.2, 0.3, 0.4]],
  // Squares: 1, 4, 9 and 16 of 30.
  [{ temperature: 0.5 }, [1 / 30, 4 / 30, 9 / 30, 16 / 30]],
  [{ temperature: 1, topK: 2 }, [0, 0, 3 / 7, 4 / 7]],
  // 0.4 alone is too little, 0.4 and 0.3 are enough.
  [{ temperature: 1, topP: 0.65 }, [0, 0, 3 / 7, 4 / 7]],
  [{ temperature: 1, topP: 0.1 }, [0, 0, 0, 1]],
  // Of the three largest 0.4 / 0.9 = 0.44 is too little, 0.7 / 0.9 = 0.78 is enough.
  [{ temperature: 1, topK: 3, topP: 0.75 }, [0, 0, 3 / 7, 4 / 7]],
];
t.test("tokens are drawn by their probabilities, within the limits", (t) => {
  const draws = 20_000;
  for (const [law, expected] of laws) {
    const counts = [0, 0, 0, 0];
    for (let position = 0; position < draws; position++) {
      const token = chooseToken(logits, { ...law, seed: 3 }, position);
      counts[token] = (counts[token] as number) + 1;
    }
    const frequencies = counts.map((count) => count / draws);
    // Five deviations of a share: 5 * sqrt(0.25 / 20,000) at most.
    const isNear = frequencies.every((share, i) => Math.abs(share - (expected[i] ?? 0)) < 0.018);
    t.ok(isNear, `${JSON.stringify(law)}: ${frequencies}, expected ${expected}`);
    t.same(
      expected.map((share, i) => share > 0 || frequencies[i] === 0),
      [true, true, true, true],
      "what a limit leaves out is never drawn",
    );
  }
  t.end();
});

t.test("a draw is a function of seed and position", (t) => {
  const drawn = (seed: number) =>
    Array.from({ length: 50 }, (_, i) => chooseToken(logits, { temperature: 1, seed }, i));
  t.same(drawn(1), drawn(1));
  t.notSame(drawn(1), drawn(2));
  t.end();
});

/** A model whose next token is the number of tokens it sees. */
async function countUp(more: Partial<GenerationOptions>) {
  const options: GenerationOptions = {
    prompt: [0],
    maxTokens: 4,
    positions: 100,
    endTokens: [],
    sampling: { temperature: 0, seed: 1 },
    next: async (tokens) => new Float32Array(20).fill(1, tokens.length, tokens.length + 1),
    ...more,
  };
  const tokens: number[] = [];
  const found = generateTokens(options);
  let step = await found.next();
  for (; !step.done; step = await found.next()) tokens.push(step.value);
  return { tokens, stop: step.value };
}

t.test("a text ends at an end token, at its most tokens, or at the last position", async (t) => {
  t.same(await countUp({}), { tokens: [1, 2, 3, 4], stop: "maxTokens" });
  t.same(await countUp({ endTokens: [9, 3] }), { tokens: [1, 2], stop: "end" });
  // The last token is foreseen from three, which are as many as the model can see.
  t.same(await countUp({ positions: 3 }), { tokens: [1, 2, 3], stop: "positions" });
  const aborted = countUp({ signal: AbortSignal.abort(new Error("enough")) });
  await t.rejects(aborted, { message: "enough" });
  const controller = new AbortController();
  const stuck = countUp({
    signal: controller.signal,
    next: () => {
      controller.abort(new Error("enough"));
      return new Promise(() => undefined);
    },
  });
  await t.rejects(stuck, { message: "enough" }, "nobody waits for a token that is given up");
});

t.test(
  "special tokens are those of the folder's files, generation_config.json first",
  async (t) => {
    const folder = t.testdir({
      none: {},
      gpt2: { "config.json": '{"bos_token_id": 7, "eos_token_id": 7}' },
      llama: {
        "config.json": '{"bos_token_id": 1, "eos_token_id": 2}',
        "generation_config.json": '{"eos_token_id": [2, 5]}',
        "tokenizer_config.json": '{"add_bos_token": true}',
      },
      names: {
        "config.json": "{}",
        "tokenizer_config.json": '{"bos_token": {"content": "<s>"}, "eos_token": "two words"}',
      },
      broken: { "config.json": '{"eos_token_id": "two"}' },
    });
    const encode = (text: string) => (text === "<s>" ? [4] : [5, 6]);
    const read = (name: string) => readSpecialTokens(join(folder, name), { encode });
    t.same(await read("none"), { addsBegin: false, end: [] });
    t.same(await read("gpt2"), { begin: 7, addsBegin: false, end: [7] });
    t.same(await read("llama"), { begin: 1, addsBegin: true, end: [2, 5] });
    t.same(await read("names"), { begin: 4, addsBegin: false, end: [] }, "a name of one token");
    await t.rejects(read("broken"), {
      code: "MODEL_FOLDER_INVALID",
      message: /config\.json: eos_token_id/,
    });
  },
);
