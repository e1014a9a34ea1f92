// One engine for two kinds of work: that of lanes and distillation, for which devices wait, and that of scoring, for which
// nobody does. The second lets the first go before it, run by run.
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Engine, Session } from "../../runtime/index.ts";

/** Two views of one engine; closing either closes it. */
export interface RightOfWay {
  /** Loads and runs at once, after at most one run of the other. */
  readonly urgent: Engine;
  /** Runs while nothing urgent does. */
  readonly patient: Engine;
}

/** Gives an engine's work right of way, or not. */
export function rightOfWay(engine: Engine): RightOfWay {
  let urgentRuns = 0;
  let announce = () => {};
  let quiet = Promise.resolve();
  const urgently = async <T>(work: () => Promise<T>): Promise<T> => {
    if (urgentRuns === 0)
      quiet = new Promise((resolve) => {
        announce = resolve;
      });
    urgentRuns += 1;
    try {
      return await work();
    } finally {
      urgentRuns -= 1;
      if (urgentRuns === 0) announce();
    }
  };
  const patiently = async <T>(work: () => Promise<T>): Promise<T> => {
    while (urgentRuns > 0) {
      await quiet;
      // Whoever had the engine may want it again at once, as for the next batch.
      await nextTurn();
    }
    return await work();
  };
  const { name } = engine;
  const close = () => engine.close();
  return {
    urgent: {
      name,
      load: (graph, options) =>
        urgently(async () => sessionWith(await engine.load(graph, options), urgently)),
      close,
    },
    patient: {
      name,
      load: async (graph, options) => sessionWith(await engine.load(graph, options), patiently),
      close,
    },
  };
}

type Manner = <T>(work: () => Promise<T>) => Promise<T>;

function sessionWith(session: Session, manner: Manner): Session {
  return {
    graph: session.graph,
    run: (feeds, outputs) => manner(() => session.run(feeds, outputs)),
    close: () => session.close(),
  };
}
