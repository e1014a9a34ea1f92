// Codes of comparisons.
import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/compare`. */
export const compareErrors = defineErrors({
  COMPARISON_CHANGED: "A folder of the comparison holds a run of other data, devices or settings.",
  COMPARISON_DATA_TOO_SMALL: "The data cannot be dealt to the devices as the comparison asks.",
});
