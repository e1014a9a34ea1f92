// What the coordinator does with a device's messages, whichever part of the model it holds.
import type { Parameters } from "../../runtime/index.ts";
import { outOfTurn } from "../payload.ts";
import type { Task } from "../task.ts";
import type { CoordinatorHalf } from "./half.ts";
import type { LaneWire } from "./incoming.ts";
import type { SplitDown, SplitUp, Up } from "./messages.ts";

/** The coordinator's part of one device's model in one round. Every message is checked before it moves anything. */
export interface CoordinatorSide {
  activations(up: Up<"activations">): Promise<SplitDown>;
  evaluate(up: Up<"evaluate">): Promise<SplitDown>;
  /** Only a U-shape sends gradients up. */
  gradient?(up: Up<"gradient">): Promise<SplitDown>;
  /** Completes the last step; what it gives tells what training changed, once the round ends. */
  finish(up: Up<"update">): () => Parameters;
  /** The lane has ended. */
  close(): void;
}

/** What a side works with. */
export interface SideOptions {
  readonly task: Task;
  readonly wire: LaneWire;
  readonly half: CoordinatorHalf;
}

/** The answer to a message that has one; throws `PROTOCOL_OUT_OF_TURN` for a kind that this side does not take. */
export function answerOf(
  side: CoordinatorSide,
  up: Exclude<SplitUp, Up<"update"> | Up<"catchUp">>,
): Promise<SplitDown> {
  if (up.kind === "activations") return side.activations(up);
  if (up.kind === "evaluate") return side.evaluate(up);
  if (side.gradient) return side.gradient(up);
  throw outOfTurn("split: only a U-shape sends gradients up");
}
