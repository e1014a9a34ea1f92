// The demo's task: was a passage of a State of the Union address spoken before 1900 or since? Who gets
// which passage is a function of the corpus and the seed.
import { type RandomStream, randomStream } from "../../runtime/index.ts";
import { dealSkewed } from "../skew.ts";
import { type Corpus, loadCorpus, type Speech } from "./corpus.ts";
import { demoErrors } from "./errors.ts";

/** The label list of the demo's task, in its order. */
export const DEMO_LABELS = ["before-1900", "since-1900"] as const;

/** One example as its CSV file holds it. */
export interface Row {
  readonly text: string;
  readonly label: (typeof DEMO_LABELS)[number];
}

/** Who holds which passages; no text is in two places. */
export interface DemoSplit {
  /** Private training passages by device id. */
  readonly devices: ReadonlyMap<string, readonly Row[]>;
  /** Texts every device has, for kd; their labels are never trained on. */
  readonly publicSet: readonly Row[];
  /** Passages of the held-out speeches, the same for every seed. */
  readonly test: readonly Row[];
}

/** Sizes and limits of a split. */
export interface SplitOptions {
  /** Most passages of one device; the devices together draw from this many times their number. */
  readonly maxPerDevice?: number;
  readonly publicTexts?: number;
  /** A skew that leaves a device fewer texts is drawn again. */
  readonly minPerDevice?: number;
  /** So is one that leaves a device a smaller part of either class. */
  readonly minClassFraction?: number;
}

/** Every passage of the corpus that the demo uses, once. */
export interface Passages {
  readonly training: readonly Row[];
  /** From the held-out speeches, less those that share a run of words with a training speech. */
  readonly test: readonly Row[];
}

/** Splits the installed corpus; throws `DEMO_CORPUS_MISSING` where it is absent, else as `splitPassages`. */
export async function demoSplit(
  seed: number | string,
  deviceIds: readonly string[],
  options: SplitOptions = {},
): Promise<DemoSplit> {
  return splitPassages(passagesOf(await loadCorpus()), seed, deviceIds, options);
}

/** Cuts the speeches into labelled passages of 60 words; takes about 2 s. */
export function passagesOf(corpus: Corpus): Passages {
  const seen = new Set<string>();
  const once = (rows: readonly Row[]) =>
    rows.filter(({ text }) => !seen.has(text) && seen.add(text) !== undefined);
  const test = once(unquoted(corpus.testSpeeches.flatMap(cut), corpus.speeches));
  return { test, training: once(corpus.speeches.flatMap(cut)) };
}

/**
 * Deals passages with Dirichlet(0.5) label skew (Yurochkin et al. 2019): each class is shared out by its own draw.
 *
 * A device's rows depend on its position in `deviceIds`, not on its name. Skews that break the limits are drawn
 * again; throws `DEMO_SPLIT_IMPOSSIBLE` when none keeps them.
 */
export function splitPassages(
  { training, test }: Passages,
  seed: number | string,
  deviceIds: readonly string[],
  options: SplitOptions = {},
): DemoSplit {
  const { maxPerDevice = 600, publicTexts = 300 } = options;
  const { minPerDevice = 150, minClassFraction = 0.15 } = options;
  const random = randomStream(seed, "demo-data");
  const shuffled = random.shuffle(training);
  const pool = shuffled.slice(publicTexts, publicTexts + maxPerDevice * deviceIds.length);
  const classes = DEMO_LABELS.map((label) => pool.filter((row) => row.label === label));
  const hands = dealSkewed(random, classes, {
    parties: deviceIds.length,
    drawShares: dirichletHalf,
    maximumRows: maxPerDevice,
    minimumRows: minPerDevice,
    minimumClassFraction: minClassFraction,
  });
  if (!hands) {
    const sizes = classes.map((rows) => rows.length);
    throw demoErrors.error(
      "DEMO_SPLIT_IMPOSSIBLE",
      `No draw leaves each of ${deviceIds.length} devices at least ${minPerDevice} passages ` +
        `and ${minClassFraction} of each class, of ${sizes.join(" + ")} passages.`,
      { hint: "Ask for fewer devices, more passages per device or smaller minimums." },
    );
  }
  const devices = deviceIds.map((id, device) => {
    return [id, random.shuffle(hands[device] as readonly Row[])] as const;
  });
  return { devices: new Map(devices), publicSet: shuffled.slice(0, publicTexts), test };
}

/** Words of one passage. */
const PASSAGE_WORDS = 60;
const FIRST_YEAR_OF_SECOND_CLASS = 1900;
/** A test passage that shares a run this long with another address quotes it (or is quoted) and is left out. */
const QUOTE_WORDS = 12;

/** A speech as passages without overlap; the rest at its end is dropped. */
function cut({ text, year }: Speech): Row[] {
  const words = wordsOf(text);
  const label = DEMO_LABELS[year < FIRST_YEAR_OF_SECOND_CLASS ? 0 : 1];
  return Array.from({ length: Math.floor(words.length / PASSAGE_WORDS) }, (_, index) => ({
    text: words.slice(index * PASSAGE_WORDS, (index + 1) * PASSAGE_WORDS).join(" "),
    label,
  }));
}

/** The rows that share no run of words with the speeches. */
function unquoted(rows: readonly Row[], speeches: readonly Speech[]): Row[] {
  const runsOfRows = new Set(rows.flatMap(({ text }) => runs(text)));
  const shared = new Set(
    speeches.flatMap(({ text }) => runs(text).filter((run) => runsOfRows.has(run))),
  );
  return rows.filter(({ text }) => !runs(text).some((run) => shared.has(run)));
}

function runs(text: string): string[] {
  const words = wordsOf(text);
  return Array.from({ length: Math.max(0, words.length - QUOTE_WORDS + 1) }, (_, start) =>
    words.slice(start, start + QUOTE_WORDS).join(" "),
  );
}

function wordsOf(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

/** One draw of Dirichlet(0.5, ..., 0.5): Gamma(0.5) is half the square of a standard normal, so one draw each does. */
function dirichletHalf(random: RandomStream, size: number): number[] {
  const gammas = Array.from({ length: size }, () => random.normal() ** 2 / 2);
  const total = gammas.reduce((sum, gamma) => sum + gamma, 0);
  return gammas.map((gamma) => gamma / total);
}
