// Where the contract's rounds are played: both ends of a protocol in one process, every message recorded.
import { isDeepStrictEqual } from "node:util";
import type { BaseModel, Engine, Example, Parameters } from "../../runtime/index.ts";
import { nextGlobal } from "../global-model.ts";
import { rowsInMemory } from "../kept-rows.ts";
import { loopbackLink } from "../loopback-link.ts";
import { initialOf } from "../plan.ts";
import type {
  ClientContext,
  ClientState,
  GlobalModel,
  Lane,
  LaneResult,
  Payload,
  RoundInfo,
  ServerSide,
  TrainReport,
} from "../protocol.ts";
import type { AnyProtocol } from "../registry.ts";
import type { Assignment } from "../selection.ts";
import type { Task } from "../task.ts";
import { type Way, wayOf } from "../way.ts";

/** What the contract plays with: a small task, its model and data. The caller closes the engine. */
export interface ContractSetting extends Way {
  readonly task: Task;
  readonly engine: Engine;
  readonly model: BaseModel;
  /** Private examples of each device. */
  readonly train: readonly Example[];
  readonly holdOut: readonly Example[];
  readonly publicSet: readonly Example[];
}

/** How a round is played. */
export interface PlayOptions {
  /** Global rounds folded in before: 0 plays the first round. */
  readonly after?: number;
  readonly deviceId?: string;
  readonly signal?: AbortSignal;
  readonly engine?: Engine;
  /** Called with every message from the device before the lane gets it. */
  readonly before?: (up: Payload, lane: Lane<Payload, Payload>) => Promise<void>;
}

/** A round that was played to its end. */
export interface PlayedRound {
  readonly first: Payload;
  /** Messages in their order, as they were sent. */
  readonly ups: readonly Payload[];
  readonly downs: readonly Payload[];
  readonly result: LaneResult | undefined;
  readonly report: TrainReport;
}

/**
 * Plays one round of one device against a coordinator end, behind as many rounds as have been folded in: the device then
 * holds what an accepted round leaves it.
 */
export async function playRound(
  protocol: AnyProtocol,
  setting: ContractSetting,
  server: ServerSide<Payload, Payload>,
  options: PlayOptions = {},
): Promise<PlayedRound> {
  const { deviceId = "a", after = 0 } = options;
  const memory = createMemory();
  for (let before = 0; before < after; before++) {
    await playWith(memory, protocol, setting, server, { deviceId, after: before });
    memory.commit();
  }
  return playWith(memory, protocol, setting, server, options);
}

async function playWith(
  memory: ClientState,
  protocol: AnyProtocol,
  setting: ContractSetting,
  server: ServerSide<Payload, Payload>,
  options: PlayOptions,
): Promise<PlayedRound> {
  const { deviceId = "a", after = 0, signal = new AbortController().signal, before } = options;
  const lane = await openLane(protocol, setting, server, { deviceId, after });
  const context = clientContext(protocol, setting, deviceId);
  const client = await protocol.createClient({
    ...context,
    state: memory,
    engine: options.engine ?? setting.engine,
  });
  const ups: Payload[] = [];
  const downs: Payload[] = [];
  const observe = (direction: "up" | "down", payload: Payload) => {
    (direction === "up" ? ups : downs).push(payload);
  };
  const checkedLane: Lane<Payload, Payload> = {
    ...lane,
    receive: async (up, laneSignal) => {
      await before?.(up, lane);
      return lane.receive(up, laneSignal);
    },
  };
  try {
    const link = loopbackLink({ protocol, lane: checkedLane, signal, observe });
    const first = protocol.parseDown(structuredClone(lane.first));
    const report = await client.runRound(roundInfo(setting.task, after), first, link, signal);
    return { first: lane.first, ups, downs, result: await lane.finish(), report };
  } finally {
    await client.close();
    await lane.close();
  }
}

/** Opens a lane of the round after `after` rounds that left the task's seeded start as it was. */
export function openLane(
  protocol: AnyProtocol,
  setting: ContractSetting,
  server: ServerSide<Payload, Payload>,
  { deviceId = "a", after = 0 }: Pick<PlayOptions, "deviceId" | "after"> = {},
): Promise<Lane<Payload, Payload>> {
  const { task } = setting;
  let global: GlobalModel = { round: 0, parameters: initialOf(task) };
  while (global.round < after) global = nextGlobal(task, global, global.parameters);
  const assignment = assignmentOf(protocol, setting, deviceId);
  return server.openLane(assignment, roundInfo(task, after), global);
}

/** The context of a coordinator end. */
export function openServer(
  protocol: AnyProtocol,
  { task, model, publicSet }: ContractSetting,
  engine: Engine,
): Promise<ServerSide<Payload, Payload>> {
  const after = () => () => {};
  const context = { task, engine, model, publicSet, rowsOf: rowsInMemory, after };
  return protocol.createServer({ ...context, log: () => {} });
}

/** Whether two rounds or results agree in every field and every bit. */
export function isSame(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(a, b);
}

/** The context of a device end that has no state. */
export function clientContext(
  protocol: AnyProtocol,
  setting: ContractSetting,
  deviceId = "a",
): ClientContext {
  const { task, engine, model, train, holdOut, publicSet } = setting;
  return {
    task,
    deviceId,
    assignment: assignmentOf(protocol, setting, deviceId),
    engine,
    model,
    train,
    holdOut,
    publicSet: async () => publicSet,
    state: { read: async () => undefined, stage: async () => {} },
    rows: rowsInMemory(),
    log: () => {},
  };
}

/** A state in memory. */
function createMemory(): ClientState & { commit(): void } {
  let committed: Parameters | undefined;
  let staged: Parameters | undefined;
  return {
    read: async () => committed,
    stage: async (tensors) => {
      staged = tensors;
    },
    commit: () => {
      committed = staged ?? committed;
    },
  };
}

function assignmentOf(
  { name, version }: AnyProtocol,
  setting: ContractSetting,
  deviceId: string,
): Assignment {
  const way = wayOf(setting);
  return { deviceId, protocol: name, protocolVersion: version, ...way, reason: "contract" };
}

function roundInfo({ training }: Task, after: number): RoundInfo {
  const globalStep = after * training.localSteps;
  return { round: after + 1, attempt: 1, lane: after + 1, globalStep, acceptedLane: after };
}
