// Coordinator end of `full`: hands out theta_t, takes one update a device.
import { deliveryLane } from "../delivery-lane.ts";
import { globalEncoder } from "../global-model.ts";
import { decodeExactly } from "../payload.ts";
import { shapesOf } from "../plan.ts";
import type { ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Lanes of `full`. */
export async function createFullServer({
  task,
}: ServerContext): Promise<ServerSide<FullDown, FullUp>> {
  const shapes = shapesOf(task);
  const encode = globalEncoder(task);
  return {
    openLane: async ({ deviceId }, _info, global) =>
      deliveryLane({ kind: "model", ...encode(global) }, ({ fields, tensors }) => ({
        kind: "contribution",
        deviceId,
        weight: contributionWeight(task, fields),
        update: decodeExactly(tensors, shapes),
      })),
    close: async () => {},
  };
}
