// What both sides of the cut agree on.
import { protocolErrors } from "../errors.ts";
import type { Task } from "../task.ts";

/** A message that this moment of the round does not expect. */
export function outOfTurn(what: string): Error {
  return protocolErrors.error("PROTOCOL_OUT_OF_TURN", `split: ${what}`);
}

/** Shape of activations and their gradients at the cut: [batch, seq, hidden]. */
export function cutShape({ training, manifest }: Task): [number, number, number] {
  return [training.batchSize, training.sequenceLength, manifest.config.hiddenSize];
}
