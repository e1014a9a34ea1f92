// The lane of every protocol in which a device sends one message a round: `full` and `kd`.
import { outOfTurn } from "./payload.ts";
import type { Lane, LaneResult, Payload } from "./protocol.ts";

/** A lane that one message completes. It keeps nothing else, so replaying that message restores it. */
export function deliveryLane<Down extends Payload, Up extends Payload>(
  first: Down,
  resultOf: (up: Up) => LaneResult,
): Lane<Down, Up> {
  let result: LaneResult | undefined;
  let isDelivered = false;
  return {
    first,
    resumable: true,
    receive: async (up) => {
      if (isDelivered) throw outOfTurn(`"${up.kind}" came after the round's delivery`);
      result = resultOf(up);
      isDelivered = true;
      return undefined;
    },
    finish: async () => result,
    // Let go: a coordinator may keep the lane's place longer than what it came to.
    close: async () => {
      result = undefined;
    },
  };
}
