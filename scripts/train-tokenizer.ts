// Trains the embedded model's tokenizer: node dist/scripts/train-tokenizer.js [FOLDER]
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pretrainingTexts } from "../apps/demo/corpus.ts";
import { BYTE_SYMBOLS, END_OF_TEXT, tokenizerConfigJson, tokenizerJson, trainBpe } from "./bpe.ts";

/** Tokens of the embedded model: bytes, merges and the end-of-text token. */
const VOCABULARY = 2048;
const MERGES = VOCABULARY - BYTE_SYMBOLS.length - [END_OF_TEXT].length;

const folder = process.argv[2] ?? join("models", "sotu-gpt2");
const started = performance.now();
const texts = await pretrainingTexts();
const model = trainBpe(texts, MERGES);
await mkdir(folder, { recursive: true });
await writeFile(join(folder, "tokenizer.json"), `${JSON.stringify(tokenizerJson(model))}\n`);
await writeFile(
  join(folder, "tokenizer_config.json"),
  `${JSON.stringify(tokenizerConfigJson(), undefined, 2)}\n`,
);
process.stderr.write(
  `${BYTE_SYMBOLS.length} byte tokens and ${model.merges.length} merges from ${texts.length} texts in ` +
    `${Math.round(performance.now() - started)} ms: ${join(folder, "tokenizer.json")}\n`,
);
