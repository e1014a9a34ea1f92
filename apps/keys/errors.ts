import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/keys`. */
export const keyErrors = defineErrors({
  KEYS_MISSING: "The keys folder has no authority, or not the certificate that was asked for.",
  KEYS_EXIST: "The keys folder already has what was asked for; nothing is overwritten.",
  KEYS_DAMAGED: "A file of the keys folder cannot be read.",
});
