// Work that is given up after a time. Not by AbortSignal.any over AbortSignal.timeout: Node holds the timeout by a weak reference
// there, and once it is collected nothing ends the wait (nodejs/node#57736).

/** Runs `work` under a signal that aborts with the reason of `signal`, or with a `TimeoutError` after `ms` milliseconds. */
export async function withPatience<T>(
  signal: AbortSignal,
  ms: number,
  work: (patience: AbortSignal) => Promise<T>,
): Promise<T> {
  const patience = new AbortController();
  const stop = () => patience.abort(signal.reason);
  const timer = setTimeout(() => {
    patience.abort(new DOMException(`it took longer than ${ms / 1000} s`, "TimeoutError"));
  }, ms);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await work(patience.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}
