// From what a round's lanes yielded to the next global model: the one path of coordinators, tests and comparisons.
import { loraScale } from "../runtime/index.ts";
import { aggregateBuffer, compareDeviceIds, openRoundAggregation } from "./aggregation/index.ts";
import { nextGlobal } from "./global-model.ts";
import type {
  Contribution,
  GlobalModel,
  KnowledgeReport,
  LaneResult,
  Payload,
  RefinementFigures,
  ServerSide,
} from "./protocol.ts";
import type { TaskSettings } from "./task.ts";

/** What a round yielded. */
export interface RoundYield {
  /** One for each accepted lane: a list in any order, or a stream in the order of device ids, which is read one by one. */
  readonly results: readonly YieldedResult[] | AsyncIterable<YieldedResult>;
  /** Coordinator ends that may refine, by the protocol's name and in the order of names. */
  readonly servers: ReadonlyMap<string, Pick<ServerSide<Payload, Payload>, "refine">>;
  /** Told what each refinement came to. */
  readonly record?: (figures: RefinementFigures) => void;
}

/** What a lane yielded. */
export type YieldedResult = LaneResult & {
  /** Rounds folded since the lane began, in an asynchronous federation; 0 when left out. */
  readonly staleness?: number;
};

/**
 * The global model after a round: theta moved by the contributions as `task.aggregation` says, by default the mean per tensor
 * over those that carry it (FRAMEWORKS.md section 4), refined by what the reports teach, as devices will decode it. A round
 * without results changes nothing but what an earlier one's encoding had lost.
 */
export async function foldRound(
  task: TaskSettings,
  global: GlobalModel,
  { results, servers, record }: RoundYield,
): Promise<GlobalModel> {
  const { aggregated, reports, contributorWeight } = await aggregate(task, global, results);
  const { state: optimizer, truncation } = aggregated;
  let { parameters } = aggregated;
  const round = global.round + 1;
  for (const [name, server] of servers) {
    const own = reports.filter(({ protocol }) => protocol === name);
    const input = {
      round,
      global: { round, parameters },
      contributorWeight,
      ...(record ? { record } : {}),
    };
    parameters = (await server.refine?.(own, input)) ?? parameters;
  }
  return {
    ...nextGlobal(task, global, parameters),
    ...(optimizer.size > 0 ? { optimizer } : {}),
    ...(truncation.size > 0 ? { truncation } : {}),
  };
}

/** Reads the results once, in order: contributions are added up, reports are kept for the refinements. */
async function aggregate(task: TaskSettings, global: GlobalModel, results: RoundYield["results"]) {
  const start = {
    options: task.aggregation,
    parameters: global.parameters,
    scale: loraScale(task.adapter),
    ...(global.optimizer ? { state: global.optimizer } : {}),
  };
  const round = openRoundAggregation(start);
  const buffer: (Contribution & { readonly staleness: number })[] = [];
  const reports: KnowledgeReport[] = [];
  let contributorWeight = 0;
  for await (const one of inOrder(results)) {
    if (one.kind === "knowledge") {
      reports.push(one);
      continue;
    }
    contributorWeight += one.weight;
    if (task.asynchronous) buffer.push({ staleness: 0, ...one });
    else round.add(one);
  }
  const aggregated = task.asynchronous ? aggregateBuffer(start, buffer) : round.finish();
  return { aggregated, reports, contributorWeight };
}

function inOrder(results: RoundYield["results"]) {
  return Symbol.asyncIterator in results
    ? results
    : results.toSorted((a, b) => compareDeviceIds(a.deviceId, b.deviceId));
}
