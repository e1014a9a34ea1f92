// Coordinator end of `full`: hands out theta_t, takes one update a device.
import { deliveryLane } from "../delivery-lane.ts";
import { globalSender } from "../global-model.ts";
import { decodeExactly } from "../payload.ts";
import { shapesOf } from "../plan.ts";
import type { LaneResult, ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Lanes of `full`. */
export async function createFullServer({
  task,
}: ServerContext): Promise<ServerSide<FullDown, FullUp>> {
  const shapes = shapesOf(task);
  const senderOf = globalSender();
  return {
    openLane: async ({ deviceId }, _info, global) => {
      const sender = senderOf(global);
      const resultOf = ({ fields, tensors }: Update): LaneResult => ({
        kind: "contribution",
        deviceId,
        weight: contributionWeight(task, fields),
        update: decodeExactly(tensors, shapes),
      });
      const delivery = deliveryLane<FullDown, Update>({ kind: "model", ...sender.first }, resultOf);
      return {
        ...delivery,
        receive: async (up, signal) =>
          up.kind === "catchUp"
            ? { kind: "model", ...sender.whole() }
            : delivery.receive(up, signal),
      };
    },
    close: async () => {},
  };
}

type Update = Extract<FullUp, { kind: "update" }>;
