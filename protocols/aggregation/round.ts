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

/**
 * The parameters after a round's contributions, which come in device-id order; none leaves them and the state as they are. With the
 * default options theta + the weighted mean. Throws as `UpdateAccumulator.add` does; `AGGREGATION_TOO_FEW`, `AGGREGATION_MEMORY_EXCEEDED`,
 * and `PROTOCOL_SHAPE_MISMATCH` for a parameter that the method does not train.
 */
export function aggregateRound(
  start: AggregationStart,
  contributions: Iterable<ScaledContribution>,
): AggregatedRound {
  const trained = onlyTrained(start.options, contributions);
  return start.options.method === "stack"
    ? stackedRound(start, trained)
    : combinedRound(start, trained);
}

/**
 * The parameters after a filled buffer of an asynchronous federation: `bufferedMean` in place of the aggregator, then the server's
 * optimizer (FedBuff takes any). Throws as `aggregateRound` does.
 */
export function aggregateBuffer(
  start: AggregationStart,
  contributions: Iterable<StaleContribution>,
): AggregatedRound {
  const trained = onlyTrained(start.options, contributions);
  return stepped(start, bufferedMean(trained, start.options));
}

function combinedRound(
  start: AggregationStart,
  contributions: Iterable<ScaledContribution>,
): AggregatedRound {
  const accumulator = openAggregation(start.options);
  let isEmpty = true;
  for (const contribution of contributions) {
    accumulator.add(contribution);
    isEmpty = false;
  }
  // Krum of nobody would be an error, and no contribution is none.
  return stepped(start, isEmpty ? new Map() : accumulator.finish());
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

function stackedRound(
  { options, parameters, state = new Map(), scale }: AggregationStart,
  contributions: Iterable<ScaledContribution>,
): AggregatedRound {
  const { maximumNorm = Number.POSITIVE_INFINITY } = options;
  const keeper = keepAll<ScaledContribution>(options);
  for (const contribution of contributions) keeper.add(contribution);
  const clipped = keeper.all.map((one) => ({ ...one, ...clipContribution(one, maximumNorm) }));
  return { ...stackRound(parameters, clipped, scale), state };
}

function* onlyTrained<T extends Contribution>(
  options: AggregationOptions,
  contributions: Iterable<T>,
): Iterable<T> {
  for (const contribution of contributions) {
    for (const name of contribution.update.keys()) {
      if (isTrained(options, name)) continue;
      const text = `contribution of device ${contribution.deviceId}: ${name} is not trained with the method ${options.method}`;
      throw protocolErrors.error("PROTOCOL_SHAPE_MISMATCH", text);
    }
    yield contribution;
  }
}
