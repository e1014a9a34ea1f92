// What every study of suite `transport` gets and gives.
import type { Row } from "../row.ts";

/** What a study runs with. */
export interface StudyOptions {
  readonly log: (message: string) => void;
}

/** A study gives its rows. */
export type Study = (options: StudyOptions) => Promise<readonly Row[]>;

/** The command that repeats a study. */
export function commandOf(study: string): string {
  return `npm run bench -- transport --only ${study}`;
}
