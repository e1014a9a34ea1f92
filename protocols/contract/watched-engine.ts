// An engine that watches another: how many sessions are open and how many runs were made.
import type { Engine, Session } from "../../runtime/index.ts";

/** An engine and what passed through it. */
export interface WatchedEngine {
  /** Closing it leaves the watched engine open. */
  readonly engine: Engine;
  /** Sessions loaded and not closed. */
  openSessions(): number;
  runs(): number;
}

/** Watches `inner`; `onRun` is told the number of each run, from 1, as it begins. */
export function watchedEngine(
  inner: Engine,
  onRun: (run: number) => void = () => {},
): WatchedEngine {
  const open = new Set<Session>();
  let runs = 0;
  const watch = (session: Session): Session => ({
    graph: session.graph,
    run: (feeds, outputs) => {
      runs += 1;
      onRun(runs);
      return session.run(feeds, outputs);
    },
    close: () => {
      open.delete(session);
      return session.close();
    },
  });
  const engine: Engine = {
    name: inner.name,
    load: async (graph, options) => {
      const session = await inner.load(graph, options);
      open.add(session);
      return watch(session);
    },
    close: async () => {},
  };
  return { engine, openSessions: () => open.size, runs: () => runs };
}
