// Times of one step. What is compared takes turns in one process, so that whatever else the machine does meets
// all alike.
import {
  type Engine,
  float32,
  loadFront,
  loadLoss,
  loadStep,
  ortEngine,
} from "../../runtime/index.ts";
import { type PreparedWorkload, prepareWorkload, type Workload } from "./workload.ts";

/** Does something once and gives its figure, mostly the milliseconds it took. */
export type Turn = () => Promise<number>;

/** Milliseconds of single runs in order, by what ran. */
export interface StepTimes {
  readonly lossOnlyMs: readonly number[];
  /** The whole step; with a cut the split client's forward and backward pass. */
  readonly stepMs: readonly number[];
  /** The whole step beside a split client. */
  readonly fullStepMs?: readonly number[];
}

/** What takes turns, loaded, and the work of one step. */
export interface LoadedTurns {
  readonly lossOnly: Turn;
  readonly step: Turn;
  readonly fullStep?: Turn;
  /** FLOPs of what `step` computes. */
  readonly stepFlops: number;
}

/** Measures a workload in turns, after `warmUps` that do not count. */
export async function measureTimes(
  workload: Workload,
  { runs, warmUps = 2 }: { readonly runs: number; readonly warmUps?: number },
): Promise<StepTimes> {
  const engine = ortEngine(engineOptions(workload));
  try {
    const { lossOnly, step, fullStep } = await loadTurns(engine, workload);
    const both = { lossOnlyMs: lossOnly, stepMs: step };
    if (fullStep === undefined) return await takeTurns(both, { runs, warmUps });
    return await takeTurns({ ...both, fullStepMs: fullStep }, { runs, warmUps });
  } finally {
    await engine.close();
  }
}

/** Loads the loss alone, the step, and with a cut the client beside the whole step. */
export async function loadTurns(engine: Engine, workload: Workload): Promise<LoadedTurns> {
  const prepared = await prepareWorkload(workload);
  const { spec, parameters, feeds } = prepared;
  const lossOnly = await loadLossOnly(engine, prepared);
  const whole = await loadStep(engine, spec);
  const step = timed(() => whole.run(parameters, feeds));
  if (workload.cut === undefined) return { lossOnly, step, stepFlops: whole.flops };
  const front = await loadFront(engine, spec, workload.cut);
  const cutGradient = smallGradient(spec);
  const client = timed(async () => {
    await front.forward(parameters, feeds);
    await front.backward(parameters, feeds, cutGradient);
  });
  return { lossOnly, step: client, fullStep: step, stepFlops: front.flops };
}

/** Runs every turn once a round; the figures of each, in order. */
export async function takeTurns<Name extends string>(
  turns: Readonly<Record<Name, Turn>>,
  { runs, warmUps }: { readonly runs: number; readonly warmUps: number },
): Promise<Readonly<Record<Name, readonly number[]>>> {
  const names = Object.keys(turns) as Name[];
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]]));
  for (let round = -warmUps; round < runs; round++) {
    for (const name of names) {
      const ms = await turns[name]();
      if (round >= 0) times[name]?.push(ms);
    }
  }
  return times as Record<Name, number[]>;
}

/** A turn that times `run` from outside. */
function timed(run: () => Promise<unknown>): Turn {
  return async () => {
    const startMs = performance.now();
    await run();
    return performance.now() - startMs;
  };
}

/** The engine that a workload is measured on. */
export function engineOptions({ threads, prepacking = false }: Workload) {
  return { threads, prepacking };
}

/** A gradient at the cut, [tokens, hidden]: of any size but zero, which processors may multiply faster. */
export function smallGradient({ model, batch, sequence }: PreparedWorkload["spec"]) {
  const gradient = float32([batch * sequence, model.config.hiddenSize]);
  gradient.data.fill(1e-3);
  return gradient;
}

async function loadLossOnly(
  engine: Engine,
  { spec, parameters, feeds }: PreparedWorkload,
): Promise<Turn> {
  const loss = await loadLoss(engine, spec);
  return timed(() => loss.run(parameters, feeds));
}
