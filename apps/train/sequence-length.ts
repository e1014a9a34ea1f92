// How many tokens of a text training and evaluation see.
import type { BaseModel } from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

/** Tokens a text is cut to unless told: as long as the model allows, up to 96. */
export function sequenceLengthOf({ config }: BaseModel, wanted: number | undefined): number {
  if (wanted === undefined) return Math.min(96, config.positions);
  if (wanted <= config.positions) return wanted;
  throw appErrors.error(
    "OPTION_INVALID",
    `--sequence-length is ${wanted}, the model takes at most ${config.positions} tokens`,
    { hint: "Shorten it, or give a model with more positions; longer texts are cut." },
  );
}
