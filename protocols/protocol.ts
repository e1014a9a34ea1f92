// The seam: one object per federated protocol, known by name at both ends. The device end is a linear
// async function, the coordinator end a set of lanes, one per device and round.
import type { DeviceBudget, DeviceProfile } from "../devices/index.ts";
import type { BaseModel, Engine, Example, ExecutionMode, Parameters } from "../runtime/index.ts";
import type { EncodedTensor } from "./encoding/encoded.ts";
import type { SparseLogits } from "./kd/sparse-logits.ts";
import type { RowKeeper } from "./kept-rows.ts";
import type { Assignment, RoundCost } from "./selection.ts";
import type { Task } from "./task.ts";
import type { Allowance, Way } from "./way.ts";

/** What a message carries: plain fields (numbers, strings, lists) and named tensors. */
export interface Payload {
  readonly kind: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
  /** Raw bytes by name, for what is no tensor of real numbers. */
  readonly blobs?: ReadonlyMap<string, Uint8Array>;
}

/** A federated protocol. Third parties ship one as a package that a device's own configuration lists. */
export interface Protocol<Down extends Payload = Payload, Up extends Payload = Payload> {
  /** "full", "kd", "split" or the author's; letters, digits and dashes. */
  readonly name: string;
  /** Both ends refuse a mismatch (`PROTOCOL_VERSION_MISMATCH`). */
  readonly version: number;
  /** What one round costs a device under these options. */
  estimate(task: Task, options: CostOptions): RoundCost;
  /** Where this protocol can cut the model (blocks on the device); absent for protocols that do not cut. */
  cutLayers?(task: Task): readonly number[];
  /** Names of the base model's tensors that a device computes with; absent for protocols that take the whole model. */
  tensors?(task: Task, assignment: Assignment): ReadonlySet<string>;
  /** Whether a device may run a model of its own in place of the task's: nothing that travels depends on the model's shape. */
  readonly runsOwnModel?: boolean;
  /** What a device's link and limits leave for a round's messages; absent for protocols whose messages do not adapt. */
  allowance?(
    task: Task,
    device: { readonly profile: DeviceProfile; readonly budget: DeviceBudget },
  ): Allowance | undefined;
  /** In which ways a device may execute its model; absent for protocols that know the fastest only. */
  modes?(task: Task): readonly ExecutionMode[];
  /** Beside cut and mode, what may differ between its devices: a task's override of anything else is refused. */
  readonly heeds?: readonly ("rank" | "encoding")[];
  /** Why a device must not be given this protocol under this task, or undefined when it may. */
  refusal?(task: Task): string | undefined;
  /** Checks foreign fields and tensors; throws `PROTOCOL_PAYLOAD_INVALID`. */
  parseDown(payload: Payload): Down;
  parseUp(payload: Payload): Up;
  /** Bytes this message would take in float32 without narrowing or padding. */
  rawBytes(payload: Down | Up): number;
  createClient(context: ClientContext): Promise<ClientSide<Down, Up>>;
  createServer(context: ServerContext): Promise<ServerSide<Down, Up>>;
}

/** What the costs of a round depend on beside the task. */
export interface CostOptions extends Way {
  /** Private examples held out for the local accuracy. */
  readonly holdOut: number;
  /** Private examples to train with; protocols that keep something of each count as many as they may keep when left out. */
  readonly train?: number;
  /** Mean tokens of a private text; protocols whose bytes grow with them count full sequences when left out. */
  readonly textTokens?: number;
}

/** What identifies a round for one device. */
export interface RoundInfo {
  /** From 1. */
  readonly round: number;
  /** From 1; a round below its minimum of devices is opened again. */
  readonly attempt: number;
  /** Rises with every start on this device; stale messages carry an older one. */
  readonly lane: number;
  /** Optimizer steps that earlier rounds made, for schedules. */
  readonly globalStep: number;
  /** Lane of this device that was accepted last, 0 before the first: what either end has kept of any other is not to be gone on with. */
  readonly acceptedLane: number;
}

/** What a device end is created with. */
export interface ClientContext {
  readonly task: Task;
  readonly deviceId: string;
  readonly assignment: Assignment;
  /** Most bytes of the running round's messages: they follow the link while the rest of the assignment stays. That of `assignment` when left out. */
  readonly allowance?: () => Allowance | undefined;
  readonly engine: Engine;
  readonly model: BaseModel;
  /** The device's private examples; they never leave it. */
  readonly train: readonly Example[];
  /** A fifth of the private examples, for the local accuracy. */
  readonly holdOut: readonly Example[];
  /** The texts every party may see, fetched once and kept. Labels are absent. */
  publicSet(): Promise<readonly Example[]>;
  readonly state: ClientState;
  readonly rows: RowKeeper;
  readonly log: (message: string) => void;
}

/** What a device end keeps between rounds; a round that is not accepted leaves it as it was. */
export interface ClientState {
  /** The last committed tensors, undefined before the first. */
  read(): Promise<Parameters | undefined>;
  /** Writes beside; the device commits when the coordinator has accepted the round. */
  stage(tensors: Parameters): Promise<void>;
}

/** Device end of a protocol. */
export interface ClientSide<Down extends Payload, Up extends Payload> {
  /** One round from its first message to the report. Rejects with the signal's reason when aborted. */
  runRound(
    info: RoundInfo,
    start: Down,
    link: RoundLink<Down, Up>,
    signal: AbortSignal,
  ): Promise<TrainReport>;
  close(): Promise<void>;
}

/** The messages of one round on one device. */
export interface RoundLink<Down extends Payload, Up extends Payload> {
  /**
   * Resolves once the coordinator has journaled the message (not at PUBACK). With what is to be reported so far it is the
   * round's last one, and is delivered even if this process does not live to do so.
   */
  send(up: Up, report?: TrainReport): Promise<void>;
  /** Resolves with the answer to exactly this message; several may be in flight. */
  ask(up: Up): Promise<Down>;
}

/** What a device reports at the end of a round. Counts are whole numbers. */
export interface TrainReport {
  /** Private examples the contribution is weighted by (n_i). */
  readonly examples: number;
  /** Private examples seen in training, repeats counted. */
  readonly examplesSeen: number;
  /** Optimizer steps made out of those asked for. */
  readonly steps: number;
  /** Mean training loss of the round's steps. */
  readonly loss: number;
  /** On the device's own hold-out after the round, 0..1; absent without a hold-out and for language models. */
  readonly accuracy?: number | undefined;
  /** The same of a language model: exp of the mean loss of a token. */
  readonly perplexity?: number | undefined;
  /** Multiply-add FLOPs (2*m*n*k per matrix product) of the graphs that ran. */
  readonly flops: number;
}

/** What a coordinator end is created with. */
export interface ServerContext {
  readonly task: Task;
  readonly engine: Engine;
  readonly model: BaseModel;
  readonly publicSet: readonly Example[];
  /** What the coordinator's end keeps of this device's rows. */
  readonly rowsOf: (deviceId: string) => RowKeeper;
  readonly after: After;
  readonly log: (message: string) => void;
}

/** Calls back once after a time; the result cancels it. */
export type After = (delayMs: number, callback: () => void) => () => void;

/** Coordinator end of a protocol. */
export interface ServerSide<Down extends Payload, Up extends Payload> {
  /** Opens this device's lane. Calls on one lane are serial, lanes run at once. */
  openLane(assignment: Assignment, info: RoundInfo, global: GlobalModel): Promise<Lane<Down, Up>>;
  /**
   * After the mean: what the finished lanes' reports teach the new global parameters, or undefined when they
   * teach nothing. Called once per round in device-id order; kd distils here.
   */
  refine?(
    reports: readonly KnowledgeReport[],
    next: RefinementInput,
  ): Promise<Parameters | undefined>;
  close(): Promise<void>;
}

/** One device's round at the coordinator. */
export interface Lane<Down extends Payload, Up extends Payload> {
  /** The message the round starts with. */
  readonly first: Down;
  /** Whether uploads are journaled and the lane survives a coordinator restart by replaying them. */
  readonly resumable: boolean;
  /** Whether what it gives is known only when its round ends: a coordinator that restarts before then begins it again, though it has delivered. */
  readonly endsWithRound?: boolean;
  /** Whether what it worked with is gone through no fault of its device, which is then started anew. */
  isLost?(): boolean;
  /** Takes one message; what it returns answers an `ask`. */
  receive(up: Up, signal: AbortSignal): Promise<Down | undefined>;
  /** What the lane gives the round; undefined when the device has not delivered. */
  finish(): Promise<LaneResult | undefined>;
  /** Resolves once no work of it is left; safe to call twice. */
  close(): Promise<void>;
}

/** What a finished lane yields: parameters for the mean, or knowledge for the refinement. */
export type LaneResult = Contribution | KnowledgeReport;

/** A parameter update relative to the round's global model. */
export interface Contribution {
  readonly kind: "contribution";
  readonly deviceId: string;
  /** n_i, finite and capped by the task; scaled by s/E when a device stopped after s of E steps. */
  readonly weight: number;
  /** theta_i - theta_t by PEFT name; a name may be missing, the mean is per tensor over its holders. */
  readonly update: Parameters;
}

/** Logits of a device on the public set. */
export interface KnowledgeReport {
  readonly kind: "knowledge";
  /** Name of the protocol whose `refine` takes it. */
  readonly protocol: string;
  readonly deviceId: string;
  readonly weight: number;
  /** Of the round's public texts, as few as travelled. */
  readonly logits: SparseLogits;
}

/** What a refinement starts from. */
export interface RefinementInput {
  readonly round: number;
  readonly global: GlobalModel;
  /** Sum of the parameter contributors' n_i: the weight of the global model's own distribution in the teacher. */
  readonly contributorWeight: number;
  /** Told what the refinement came to, once. */
  readonly record?: (figures: RefinementFigures) => void;
}

/** How near the global model is to its teacher on the round's public texts, before and after a refinement. */
export interface RefinementFigures {
  /** Mean KL(teacher || model) of a text or position at the task's temperature, in nats. */
  readonly divergenceBefore: number;
  readonly divergenceAfter: number;
  /** Share of texts or positions, 0..1, on whose most probable class both agree. */
  readonly agreementBefore: number;
  readonly agreementAfter: number;
}

/** The one global adapter set. */
export interface GlobalModel {
  /** Rounds folded in so far; 0 before the first. */
  readonly round: number;
  readonly parameters: Parameters;
  /** What the last round added to the parameters before it, as it travels; absent at the start and where they travel whole. */
  readonly change?: ReadonlyMap<string, EncodedTensor>;
  /** What the encoding of changes has lost so far, for the next one. */
  readonly residual?: Parameters;
  /** What the server's optimizer goes on from; absent where it remembers nothing. */
  readonly optimizer?: Parameters;
  /** Of the round that made this model with `stack`: by adapted layer, the share of the mean that its rank could not hold. */
  readonly truncation?: ReadonlyMap<string, number>;
}
