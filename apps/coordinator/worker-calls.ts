// What the coordinator and its worker processes say to each other over the channel of `fork`, in Node's own structured form:
// maps and typed arrays come as they are.
import type {
  Assignment,
  GlobalModel,
  LaneResult,
  Payload,
  RoundInfo,
  Task,
} from "../../protocols/index.ts";
import type { BaseModel } from "../../runtime/index.ts";

/** What a worker begins with. */
export interface WorkerTask {
  readonly kind: "task";
  readonly task: Task;
  /** Mapped from its files, so that workers share its memory. */
  readonly model: BaseModel;
  readonly threads: number;
  /** Where it keeps rows of devices. */
  readonly runFolder: string;
}

/** Calls on a worker, each with what it answers. A lane is named by a number of the coordinator's. */
export interface WorkerCalls {
  readonly open: {
    readonly ask: {
      readonly assignment: Assignment;
      readonly info: RoundInfo;
      /** Left out when it is that of the worker's last `open`. */
      readonly global?: GlobalModel;
    };
    readonly answer: { readonly first: Payload; readonly resumable: boolean };
  };
  readonly receive: { readonly ask: Payload; readonly answer: Payload | undefined };
  readonly finish: { readonly ask: undefined; readonly answer: LaneResult | undefined };
  readonly close: { readonly ask: undefined; readonly answer: undefined };
}

/** Name of a call. */
export type WorkerCall = keyof WorkerCalls;

/** A call on its way. */
export type WorkerRequest = {
  [Kind in WorkerCall]: {
    readonly kind: Kind;
    readonly id: number;
    readonly lane: number;
    readonly ask: WorkerCalls[Kind]["ask"];
  };
}[WorkerCall];

/** What came of a call, or a line for the log. */
export type WorkerReply =
  | { readonly kind: "answer"; readonly id: number; readonly answer: unknown }
  | {
      readonly kind: "error";
      readonly id: number;
      /** Absent for an error without one. */
      readonly code?: string | undefined;
      readonly message: string;
      readonly hint?: string | undefined;
    }
  | { readonly kind: "log"; readonly line: string };
