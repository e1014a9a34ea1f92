// From what a round's lanes yielded to the next global model: the one path of coordinators, tests and comparisons.
import { loraScale } from "../runtime/index.ts";
import { aggregateBuffer, aggregateRound, compareDeviceIds } from "./aggregation/index.ts";
import { nextGlobal } from "./global-model.ts";
import type {
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
  /** One for each accepted lane, in any order. */
  readonly results: readonly YieldedResult[];
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
  const ordered = results.toSorted((a, b) => compareDeviceIds(a.deviceId, b.deviceId));
  const contributions = ordered.filter((one) => one.kind === "contribution");
  const reports = ordered.filter((one): one is KnowledgeReport => one.kind === "knowledge");
  const start = {
    options: task.aggregation,
    parameters: global.parameters,
    scale: loraScale(task.adapter),
    ...(global.optimizer ? { state: global.optimizer } : {}),
  };
  const aggregated = task.asynchronous
    ? aggregateBuffer(
        start,
        contributions.map((one) => ({ staleness: 0, ...one })),
      )
    : aggregateRound(start, contributions);
  const { state: optimizer, truncation } = aggregated;
  let { parameters } = aggregated;
  const round = global.round + 1;
  const contributorWeight = contributions.reduce((sum, { weight }) => sum + weight, 0);
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
