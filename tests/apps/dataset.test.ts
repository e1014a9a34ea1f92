import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import t from "tap";
import { loadCorpus, pretrainingTexts } from "../../apps/demo/corpus.ts";
import { DEMO_LABELS, passagesOf, type Row, splitPassages } from "../../apps/demo/dataset.ts";
import { BYTE_SYMBOLS, GPT2_PIECES, trainBpe } from "../../scripts/bpe.ts";

const IDS = ["orin", "pi5", "pi4", "zero"];
const corpus = await loadCorpus();
const passages = passagesOf(corpus);
const since1900 = (rows: readonly Row[]) =>
  rows.filter((row) => row.label === DEMO_LABELS[1]).length / rows.length;

t.test("no text lies in two places of a split", async (t) => {
  const { devices, publicSet, test } = splitPassages(passages, 1, IDS);
  const texts = [...devices.values(), publicSet, test].flat().map((row) => row.text);
  t.equal(new Set(texts).size, texts.length);
  t.ok(texts.every((text) => text.split(" ").length === 60));
});

t.test("the test set is whole held-out speeches of both classes over two centuries", async (t) => {
  const { test } = splitPassages(passages, 1, IDS);
  t.ok(test.length >= 1200, `${test.length} test passages`);
  // An even test set makes chance 0.5: neither class below 45%.
  t.ok(Math.abs(since1900(test) - 0.5) < 0.05);
  const years = corpus.testSpeeches.map((speech) => speech.year);
  t.ok(Math.min(...years) < 1800 && Math.max(...years) > 2000);
  const heldOut = corpus.testSpeeches.map((speech) => speech.text.split(/\s+/).join(" ")).join(" ");
  t.ok(test.every((row) => heldOut.includes(row.text)));
});

t.test("neither pretraining nor a device sees a line of a test passage", async (t) => {
  const { test, devices, publicSet } = splitPassages(passages, 1, IDS);
  const learned = (await pretrainingTexts()).join("\n").split(/\s+/).join(" ");
  const trained = [...devices.values(), publicSet].flat().map((row) => row.text);
  // 12 words from the middle of every fifth passage: searching 10 MB for all of them takes 4 s.
  const lines = test
    .filter((_, index) => index % 5 === 0)
    .map((row) => row.text.split(" ").slice(24, 36).join(" "));
  t.ok(lines.every((line) => line !== "") && lines.length > 200);
  t.same(
    lines.filter((line) => learned.includes(line)),
    [],
  );
  t.same(
    lines.filter((line) => trained.some((text) => text.includes(line))),
    [],
  );
});

t.test("passages are labelled by year, cut to 60 words, kept once and never quoted", async (t) => {
  const speech = (year: number, word: string, words: number) => ({
    year,
    president: "P",
    text: Array.from({ length: words }, (_, index) => `${word}${index}`).join(" "),
  });
  const { training, test } = passagesOf({
    speeches: [speech(1899, "a", 179), speech(1900, "b", 60), speech(1950, "b", 60)],
    // The second one quotes 12 words of 1900 in its second passage.
    testSpeeches: [speech(1901, "c", 59), { ...speech(2000, "d", 68), text: quoting() }],
    chapters: [],
  });
  const starts = (rows: readonly Row[]) =>
    rows.map((row) => [row.text.split(" ")[0], row.text.split(" ")[59], row.label]);
  t.same(starts(training), [
    ["a0", "a59", "before-1900"],
    ["a60", "a119", "before-1900"],
    ["b0", "b59", "since-1900"],
  ]);
  t.same(starts(test), [["d0", "d59", "since-1900"]]);

  function quoting(): string {
    return `${speech(0, "d", 64).text} ${speech(0, "b", 12).text} ${speech(0, "e", 44).text}`;
  }
});

t.test("every seed keeps the limits of the skew", async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const { devices, publicSet } = splitPassages(passages, seed, IDS);
    t.equal(publicSet.length, 300);
    for (const [id, rows] of devices) {
      const fraction = since1900(rows);
      t.ok(rows.length >= 150 && rows.length <= 600, `${seed} ${id} ${rows.length}`);
      t.ok(fraction >= 0.15 && fraction <= 0.85, `${seed} ${id} ${fraction}`);
    }
  }
});

t.test("devices differ in size and in labels", async (t) => {
  const splits = Array.from({ length: 10 }, (_, seed) => splitPassages(passages, seed, IDS));
  const spread = splits.map(({ devices }) => {
    const fractions = [...devices.values()].map(since1900);
    return Math.max(...fractions) - Math.min(...fractions);
  });
  // An even deal of 600 has a standard error of 0.02 in the fraction, so four devices would stay within 0.1.
  t.ok(spread.filter((range) => range > 0.2).length >= 8, spread.join(" "));
});

t.test("a split depends on the seed and not on the names of the devices", async (t) => {
  const rows = (seed: number, ids: readonly string[]) =>
    JSON.stringify([...splitPassages(passages, seed, ids).devices.values()]);
  const first = rows(7, IDS);
  t.ok(first === rows(7, ["a", "b", "c", "d"]));
  t.notOk(first === rows(8, IDS));
});

t.test("limits that no draw keeps are refused with what was asked", async (t) => {
  t.throws(() => splitPassages(passages, 1, IDS, { maxPerDevice: 100, minPerDevice: 101 }), {
    code: "DEMO_SPLIT_IMPOSSIBLE",
    message: /4 devices at least 101/,
  });
});

t.test(
  "without the development dependencies the demo's data is refused with a way out",
  async (t) => {
    const hooks = `export const resolve = (name, context, next) => {
    if (name.startsWith("@stdlib/")) throw new Error("absent");
    return next(name, context);
  };`;
    const register = `import { register } from "node:module"; register(${JSON.stringify(inline(hooks))});`;
    const corpusUrl = new URL("../../apps/demo/corpus.js", import.meta.url).href;
    const print = `import { loadCorpus } from ${JSON.stringify(corpusUrl)};
    await loadCorpus().catch(({ code, hint }) => console.log(JSON.stringify({ code, hint })));`;
    const { stdout } = await promisify(execFile)(process.execPath, [
      "--import",
      inline(register),
      "--input-type=module",
      "--eval",
      print,
    ]);
    t.match(JSON.parse(stdout), { code: "DEMO_CORPUS_MISSING", hint: /npm ci/ });
  },
);

const tokenizer = await openTokenizer();

t.test("the tokenizer gives any text back unchanged", async (t) => {
  t.equal(tokenizer.token_to_id("<|endoftext|>"), 2047);
  const encode = (text: string) => tokenizer.encode(text, { add_special_tokens: false }).ids;
  const odd = [
    "  lead and trail \n\t ",
    "naïve “q” — a , b . c n't",
    "🙂👩‍👩‍👧 漢字 ١٢ \u0000\u00ad",
    "don't I'LL",
  ];
  for (const text of odd) {
    t.equal(tokenizer.decode(encode(text)), text);
  }
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", minLength: 1 }), (text) => {
      // Special tokens in the text would be encoded as such and are not what this is about.
      return text.includes("<|") || tokenizer.decode(encode(text)) === text;
    }),
    { seed: 1 },
  );
});

t.test(
  "the embedded tokenizer is the one its trainer makes of the pretraining texts",
  async (t) => {
    const { merges } = trainBpe(await pretrainingTexts(), 2048 - 256 - 1);
    const { model } = JSON.parse(await readFile("models/sotu-gpt2/tokenizer.json", "utf8"));
    t.same(
      model.merges,
      merges.map((pair) => pair.join(" ")),
    );
    t.equal(Object.keys(model.vocab).length, 2048);
  },
);

t.test("the trainer merges like one that counts everything anew each time", async (t) => {
  const texts = [
    "the theatre then thinned; the others' thesis, there, thus — äöü äöü",
    "aaaa aaaaaaa aa abab ababab",
  ];
  t.same(trainBpe(texts, 60).merges, slowMerges(texts, 60));
});

t.test("training stops when no pair is left", async (t) => {
  t.same(trainBpe(["ab ab"], 99).merges, [
    ["a", "b"],
    ["Ġ", "ab"],
  ]);
});

function inline(script: string): string {
  return `data:text/javascript,${encodeURIComponent(script)}`;
}

/** Byte-pair encoding straight from the definition: strings, no state kept between merges. */
function slowMerges(texts: readonly string[], count: number): string[][] {
  let words = texts.flatMap((text) =>
    [...text.matchAll(GPT2_PIECES)].map(([piece]) =>
      [...Buffer.from(piece)].map((byte) => BYTE_SYMBOLS[byte] as string),
    ),
  );
  const order = [...BYTE_SYMBOLS].sort();
  const merges: string[][] = [];
  while (merges.length < count) {
    const pairs = words.flatMap((word) => word.slice(1).map((right, i) => [word[i] ?? "", right]));
    const counts = new Map<string, number>();
    for (const pair of pairs) {
      counts.set(pair.join(" "), (counts.get(pair.join(" ")) ?? 0) + 1);
    }
    const rank = (pair: string) => pair.split(" ").map((token) => order.indexOf(token));
    const [best] = [...counts].sort(([a, countA], [b, countB]) => {
      const [leftA = 0, rightA = 0] = rank(a);
      const [leftB = 0, rightB = 0] = rank(b);
      return countB - countA || leftA - leftB || rightA - rightB;
    });
    if (best === undefined) {
      break;
    }
    const [left = "", right = ""] = best[0].split(" ");
    merges.push([left, right]);
    order.push(left + right);
    words = words.map((word) => merged(word, left, right));
  }
  return merges;
}

function merged(word: readonly string[], left: string, right: string): string[] {
  const [first, second, ...rest] = word;
  if (first === undefined) {
    return [];
  }
  return first === left && second === right
    ? [left + right, ...merged(rest, left, right)]
    : [first, ...merged(word.slice(1), left, right)];
}

async function openTokenizer(): Promise<Tokenizer> {
  const folder = "models/sotu-gpt2";
  const read = async (name: string) => JSON.parse(await readFile(`${folder}/${name}`, "utf8"));
  return new Tokenizer(await read("tokenizer.json"), await read("tokenizer_config.json"));
}
