// Which devices a round asks, how many it needs and how long it waits for them.
import { z } from "zod";
import { randomStream } from "../runtime/index.ts";
import { compareDeviceIds } from "./aggregation/index.ts";

const positiveInt = z.int().positive();

/** How a round chooses whom it asks. */
export const cohortChoices = ["random", "fastest"] as const;

/** Settings of the cohort. */
export const cohortOptions = z
  .strictObject({
    minimumDevices: positiveInt.default(1),
    roundDeadlineMs: positiveInt.default(600_000),
    /** Upper limit of one device's weight in the mean. */
    maximumWeight: positiveInt.default(1_000_000),
    /** Share of the ready devices that a round asks, at least `minimumDevices`; 1 asks whoever comes. */
    fraction: z.number().positive().max(1).default(1),
    /** Whom a fraction asks: drawn anew each round, or the devices whose round is estimated to take the least time. */
    choice: z.enum(cohortChoices).default("random"),
  })
  .prefault({});

/** How many devices a round asks, and which ones. */
export interface CohortChoice
  extends Pick<z.output<typeof cohortOptions>, "fraction" | "choice" | "minimumDevices"> {
  /** What the aggregation has room for; any number when left out. */
  readonly mostDevices?: number;
}

/** A device that could be asked. */
export interface CohortCandidate {
  readonly deviceId: string;
  /** Estimated seconds of its round, from its profile and assignment; undefined where nothing is known. */
  readonly seconds: number | undefined;
}

/** Which draw it is: equal draws from equal candidates choose alike. */
export interface CohortDraw {
  readonly seed: number;
  readonly round: number;
  /** A round that is opened again asks others. */
  readonly attempt: number;
}

/**
 * The ids of the devices that a round asks, in order (client fraction C of McMahan et al. 2017, arXiv 1602.05629, algorithm
 * 1). Random: every device draws a number keyed by (seed, "cohort", round, attempt, id) and the lowest are asked, so
 * each is as likely as any other, whoever else is there. All candidates when there are no more than the minimum.
 */
export function chooseCohort(
  candidates: readonly CohortCandidate[],
  cohort: CohortChoice,
  draw: CohortDraw,
): string[] {
  const keyOf = cohortKeys[cohort.choice];
  const { minimumDevices, fraction, mostDevices = Number.POSITIVE_INFINITY } = cohort;
  const share = Math.max(minimumDevices, shareOf(fraction, candidates.length));
  const size = Math.min(mostDevices, share);
  return candidates
    .map((candidate) => ({ id: candidate.deviceId, key: keyOf(candidate, draw) }))
    .sort((a, b) => (a.key === b.key ? compareDeviceIds(a.id, b.id) : a.key - b.key))
    .slice(0, size)
    .map(({ id }) => id)
    .sort(compareDeviceIds);
}

type Choice = (typeof cohortChoices)[number];

/** The devices with the least are asked. */
const cohortKeys: {
  readonly [C in Choice]: (candidate: CohortCandidate, draw: CohortDraw) => number;
} = {
  random: ({ deviceId }, { seed, round, attempt }) =>
    randomStream(seed, "cohort", round, attempt, deviceId).next(),
  fastest: ({ seconds = Number.POSITIVE_INFINITY }) => seconds,
};

/** Rounded up; a product such as 0.07 * 100 lies above the whole number that it is. */
function shareOf(fraction: number, count: number): number {
  return Math.ceil(fraction * count - 1e-9);
}
