// Codes of the demo.
import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/demo`. */
export const demoErrors = defineErrors({
  DEMO_CORPUS_MISSING: "The texts of the demo are not installed.",
  DEMO_SPLIT_IMPOSSIBLE: "No split of the demo's texts keeps the rules asked for.",
});
