// A round's contributions become the next parameters, as the task's settings say: the one entry for coordinators.
import type { Parameters } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";
import { keepAll, openAggregation } from "./aggregators.ts";
import { bufferedMean, type StaleContribution } from "./buffered.ts";
import { clipContribution } from "./clipping.ts";
import { isTrained } from "./methods.ts";
import type { AggregationOptions } from "./options.ts";
import { serverStep } from "./server-optimizer.ts";
import { type ScaledContribution, stackRound } from "./stack.ts";
import { applyUpdate } from "./update.ts";

/** What a round starts from. */
export interface AggregationStart {
  readonly options: AggregationOptions;
  /** theta_t, to which the contributions are relative. */
  readonly parameters: Parameters;
  /** Of the server's optimizer after the round before; empty at the start. */
  readonly state?: Parameters;
  /** `loraScale` of the task's adapter. */
  readonly scale: number;
}

/** What a round ends with. */
export interface AggregatedRound {
  readonly parameters: Parameters;
  /** To be saved with the parameters. */
  readonly state: Parameters;
  /** Of `stack`, by adapted layer: what the rank could not hold; empty for other methods. */
  readonly truncation: ReadonlyMap<string, number>;
}

/** A round's contributions as they are added, one after the other: the mean holds one of them at a time. */
export interface RoundAggregation {
  /** Takes the next in device-id order. Throws as `UpdateAccumulator.add` does, and `PROTOCOL_SHAPE_MISMATCH` for what the method does not train. */
  add(contribution: ScaledContribution): void;
  /** Throws `AGGREGATION_TOO_FEW` or `AGGREGATION_MEMORY_EXCEEDED`. Nothing added leaves parameters and state as they are. */
  finish(): AggregatedRound;
}

/** Begins the aggregation of a round; with the default options it comes to theta + the weighted mean. */
export function openRoundAggregation(start: AggregationStart): RoundAggregation {
  const inner = start.options.method === "stack" ? stackedRound(start) : combinedRound(start);
  return {
    add: (contribution) => {
      checkTrained(start.options, contribution);
      inner.add(contribution);
    },
    finish: inner.finish,
  };
}

/** `openRoundAggregation` for contributions that are all at hand. */
export function aggregateRound(
  start: AggregationStart,
  contributions: Iterable<ScaledContribution>,
): AggregatedRound {
  const aggregation = openRoundAggregation(start);
  for (const contribution of contributions) aggregation.add(contribution);
  return aggregation.finish();
}

/**
 * The parameters after a filled buffer of an asynchronous federation: `bufferedMean` in place of the aggregator, then the server's
 * optimizer (FedBuff takes any). Throws as `aggregateRound` does.
 */
export function aggregateBuffer(
  start: AggregationStart,
  contributions: Iterable<StaleContribution>,
): AggregatedRound {
  const buffer = [...contributions];
  for (const contribution of buffer) checkTrained(start.options, contribution);
  return stepped(start, bufferedMean(buffer, start.options));
}

function combinedRound(start: AggregationStart): RoundAggregation {
  const accumulator = openAggregation(start.options);
  let isEmpty = true;
  return {
    add: (contribution) => {
      accumulator.add(contribution);
      isEmpty = false;
    },
    // Krum of nobody would be an error, and no contribution is none.
    finish: () => stepped(start, isEmpty ? new Map() : accumulator.finish()),
  };
}

/** A tensor that the combined update lacks keeps its value and its moments. */
function stepped(
  { options, parameters, state = new Map() }: AggregationStart,
  combined: Parameters,
): AggregatedRound {
  if (combined.size === 0) return { parameters, state, truncation: new Map() };
  const step = serverStep(options.optimizer, combined, state);
  const moved = applyUpdate(parameters, step.update);
  return { parameters: moved, state: step.state, truncation: new Map() };
}

function stackedRound({
  options,
  parameters,
  state = new Map(),
  scale,
}: AggregationStart): RoundAggregation {
  const { maximumNorm = Number.POSITIVE_INFINITY } = options;
  const keeper = keepAll<ScaledContribution>(options);
  return {
    add: (contribution) => keeper.add(contribution),
    finish: () => {
      const clipped = keeper.all.map((one) => ({ ...one, ...clipContribution(one, maximumNorm) }));
      return { ...stackRound(parameters, clipped, scale), state };
    },
  };
}

function checkTrained(options: AggregationOptions, { deviceId, update }: Contribution): void {
  for (const name of update.keys()) {
    if (isTrained(options, name)) continue;
    const text = `contribution of device ${deviceId}: ${name} is not trained with the method ${options.method}`;
    throw protocolErrors.error("PROTOCOL_SHAPE_MISMATCH", text);
  }
}
