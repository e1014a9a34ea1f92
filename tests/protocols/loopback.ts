// A federation in one process, without a broker: rounds of real devices and lanes that pass every message
// through its parser.
import {
  type AnyProtocol,
  type Assignment,
  builtInProtocols,
  type ClientSide,
  type ClientState,
  compareDeviceIds,
  type EncodingName,
  foldRound,
  type GlobalModel,
  initialOf,
  type Lane,
  type LaneResult,
  loopbackLink,
  type OwnModel,
  type Payload,
  type RoundInfo,
  type RowKeeper,
  rowsInMemory,
  type ServerSide,
  type Task,
  type TrainReport,
  wayOf,
  withOwnModel,
} from "../../protocols/index.ts";
import type { BaseModel, Example, Parameters } from "../../runtime/index.ts";
import type { Toy } from "./toy.ts";

/** A device and what it holds. */
export interface ToyDevice {
  readonly id: string;
  readonly protocol: "full" | "kd" | "split";
  readonly cutLayer?: number;
  readonly rank?: number;
  readonly encoding?: EncodingName;
  readonly train: readonly Example[];
  readonly holdOut?: readonly Example[];
  /** A model of its own; the task's when left out. */
  readonly own?: { readonly facts: OwnModel; readonly model: BaseModel };
}

/** What a device's round came to. */
export interface DeviceRound {
  readonly report: TrainReport;
  readonly result: LaneResult;
  /** Every message in the order of travel. */
  readonly ups: readonly Payload[];
  readonly downs: readonly Payload[];
}

/** What a round came to. */
export interface Round {
  readonly global: GlobalModel;
  readonly devices: ReadonlyMap<string, DeviceRound>;
}

/** How a round is played. */
export interface RoundOptions {
  /** One device after another in this order, instead of all at once. */
  readonly order?: readonly string[];
  /** Whether the round is accepted, so that devices commit their state. Default true. */
  readonly accepted?: boolean;
}

/** Devices and coordinator of one task. */
export interface Federation {
  /** The seeded start. */
  readonly start: GlobalModel;
  /** What a device has committed. */
  stateOf(deviceId: string): Promise<Parameters | undefined>;
  round(global: GlobalModel, options?: RoundOptions): Promise<Round>;
  close(): Promise<void>;
}

/** Opens every device and, for each protocol among them, the coordinator end. */
export async function openFederation(
  toy: Toy,
  task: Task,
  devices: readonly ToyDevice[],
): Promise<Federation> {
  const sorted = devices.toSorted((a, b) => compareDeviceIds(a.id, b.id));
  const servers = new Map<string, ServerSide<Payload, Payload>>();
  const keepers = new Map(devices.map(({ id }) => [id, rowsInMemory()]));
  const rowsOf = (id: string) => keepers.get(id) as RowKeeper;
  for (const { name, createServer } of builtInProtocols) {
    if (!devices.some(({ protocol }) => protocol === name)) continue;
    const { engine, model, publicSet } = toy;
    const place = { task, engine, model, publicSet, rowsOf };
    servers.set(name, await createServer({ ...place, after: () => () => {}, log: () => {} }));
  }
  const members: Member[] = [];
  for (const device of sorted) members.push(await openMember(toy, task, device));
  return {
    start: { round: 0, parameters: initialOf(task) },
    stateOf: async (id) => members.find(({ device }) => device.id === id)?.state.read(),
    round: async (global, { order, accepted = true } = {}) => {
      const play = (member: Member) =>
        playRound(member, servers.get(member.device.protocol) as Server, { task, global });
      const played = new Map<string, PlayedLane>();
      if (order === undefined) {
        const all = await Promise.all(members.map(play));
        members.forEach(({ device }, i) => {
          played.set(device.id, all[i] as PlayedLane);
        });
      }
      for (const id of order ?? []) {
        played.set(id, await play(members.find(({ device }) => device.id === id) as Member));
      }
      if (accepted) for (const member of members) accept(member);
      // As at a coordinator, lanes are asked for what they give when all have ended.
      const outcomes = new Map<string, DeviceRound>();
      for (const [id, { lane, ...round }] of played) {
        outcomes.set(id, { ...round, result: (await lane.finish()) as LaneResult });
      }
      for (const { lane } of played.values()) await lane.close();
      const results = [...outcomes.values()].map(({ result }) => result);
      const next = await foldRound(task, global, { results, servers });
      return { global: next, devices: outcomes };
    },
    close: async () => {
      for (const end of [...members.map(({ client }) => client), ...servers.values()]) {
        await end.close();
      }
    },
  };
}

/** The rounds of a federation that is opened for them, each from the model of the one before. */
export async function playRounds(
  toy: Toy,
  task: Task,
  devices: readonly ToyDevice[],
  rounds = 2,
): Promise<Round[]> {
  const federation = await openFederation(toy, task, devices);
  const played: Round[] = [];
  let global = federation.start;
  for (let i = 0; i < rounds; i++) {
    const round = await federation.round(global);
    played.push(round);
    global = round.global;
  }
  await federation.close();
  return played;
}

/** A state in memory that tells committed from staged. */
function memoryState(): ClientState & { commit(): void } {
  let committed: Parameters | undefined;
  let staged: Parameters | undefined;
  return {
    read: async () => committed,
    stage: async (tensors) => {
      staged = structuredClone(tensors);
    },
    commit: () => {
      committed = staged ?? committed;
    },
  };
}

type Server = ServerSide<Payload, Payload>;

function accept(member: Member): void {
  member.state.commit();
  member.acceptedLane = member.lane;
}

interface Member {
  readonly device: ToyDevice;
  readonly protocol: AnyProtocol;
  readonly assignment: Assignment;
  readonly client: ClientSide<Payload, Payload>;
  readonly state: ReturnType<typeof memoryState>;
  /** The last lane, and the last that was accepted. */
  lane: number;
  acceptedLane: number;
}

async function openMember(toy: Toy, task: Task, device: ToyDevice): Promise<Member> {
  const protocol = builtInProtocols.find(({ name }) => name === device.protocol) as AnyProtocol;
  const { name, version } = protocol;
  const assignment: Assignment = {
    deviceId: device.id,
    protocol: name,
    protocolVersion: version,
    ...wayOf(device),
    reason: "given by the test",
  };
  const state = memoryState();
  const client = await protocol.createClient({
    task: device.own ? withOwnModel(task, device.own.facts) : task,
    deviceId: device.id,
    assignment,
    engine: toy.engine,
    model: device.own?.model ?? toy.model,
    train: device.train,
    holdOut: device.holdOut ?? [],
    publicSet: async () => toy.publicSet,
    state,
    rows: rowsInMemory(),
    log: () => {},
  });
  return { device, protocol, assignment, client, state, lane: 0, acceptedLane: 0 };
}

/** What a device has done, and its lane. */
interface PlayedLane extends Omit<DeviceRound, "result"> {
  readonly lane: Lane<Payload, Payload>;
}

async function playRound(
  member: Member,
  server: Server,
  { task, global }: { readonly task: Task; readonly global: GlobalModel },
): Promise<PlayedLane> {
  const { protocol, assignment, client, acceptedLane } = member;
  member.lane += 1;
  const info: RoundInfo = {
    round: global.round + 1,
    attempt: 1,
    lane: member.lane,
    globalStep: global.round * task.training.localSteps,
    acceptedLane,
  };
  const lane = await server.openLane(assignment, info, global);
  const { signal } = new AbortController();
  const ups: Payload[] = [];
  const downs: Payload[] = [lane.first];
  const observe = (direction: "up" | "down", payload: Payload) => {
    (direction === "up" ? ups : downs).push(payload);
  };
  const link = loopbackLink({ protocol, lane, signal, observe });
  const first = protocol.parseDown(structuredClone(lane.first));
  const report = await client.runRound(info, first, link, signal);
  return { report, lane, ups, downs };
}
