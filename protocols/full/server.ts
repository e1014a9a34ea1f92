// Coordinator end of `full`: hands out theta_t, takes one update a device.
import { encodeGlobal } from "../global-model.ts";
import { decodeExactly } from "../payload.ts";
import { initialOf, shapesOf } from "../plan.ts";
import type { Contribution, ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Lanes of `full`; they keep nothing but the update, so they survive a restart. */
export async function createFullServer({
  task,
}: ServerContext): Promise<ServerSide<FullDown, FullUp>> {
  const initial = initialOf(task);
  const shapes = shapesOf(task);
  return {
    openLane: async ({ deviceId }, _info, global) => {
      let result: Contribution | undefined;
      const encoded = encodeGlobal(global.parameters, initial, task.full.encoding);
      return {
        first: { kind: "model", ...encoded },
        resumable: true,
        receive: async ({ fields, tensors }) => {
          const update = decodeExactly(tensors, shapes);
          result = {
            kind: "contribution",
            deviceId,
            weight: contributionWeight(task, fields),
            update,
          };
          return undefined;
        },
        finish: async () => result,
        close: async () => {},
      };
    },
    close: async () => {},
  };
}
