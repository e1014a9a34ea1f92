// What every lane of a round needs alike is computed once for its global model.
import type { GlobalModel } from "./protocol.ts";

/** Remembers the last answer: lanes of one round ask for the same global model again and again. */
export function perGlobal<T>(compute: (global: GlobalModel) => T): (global: GlobalModel) => T {
  let last: { readonly global: GlobalModel; readonly answer: T } | undefined;
  return (global) => {
    if (last?.global !== global) last = { global, answer: compute(global) };
    return last.answer;
  };
}
