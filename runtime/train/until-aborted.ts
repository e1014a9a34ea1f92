// Work that is given up when a signal aborts: native code cannot be stopped, but nobody has to wait for it.

/** The result of `work`, or a rejection with the signal's reason as soon as it aborts. */
export async function untilAborted<T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (signal === undefined) return await work;
  const given = new AbortController();
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { signal: given.signal });
  });
  try {
    // It may have aborted while the work began, before anyone listened.
    signal.throwIfAborted();
    return await Promise.race([work, aborted]);
  } finally {
    given.abort();
    // What is given up may still fail, and nobody listens then.
    work.catch(() => undefined);
  }
}
