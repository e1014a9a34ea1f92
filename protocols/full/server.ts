// Coordinator end of `full`: hands out theta_t, takes one update or gradient a device.
import type { Parameters } from "../../runtime/index.ts";
import { scaleBundle } from "../bundles.ts";
import { deliveryLane } from "../delivery-lane.ts";
import { globalSender } from "../global-model.ts";
import { decodeUpdate, outOfTurn } from "../payload.ts";
import { rateOf, shapesOf, trainedPart } from "../plan.ts";
import type { LaneResult, RoundInfo, ServerContext, ServerSide } from "../protocol.ts";
import type { Task } from "../task.ts";
import { contributionWeight } from "../weight.ts";
import { deviceTask } from "./device-task.ts";
import type { FullDown, FullUp } from "./messages.ts";
import { stepsAsked } from "./steps-asked.ts";

/** Lanes of `full`. */
export async function createFullServer({
  task,
}: ServerContext): Promise<ServerSide<FullDown, FullUp>> {
  const senderOf = globalSender(task);
  const kind = deliveryKinds[task.full.mode];
  return {
    openLane: async (assignment, info, global) => {
      const { deviceId } = assignment;
      const shapes = trainedPart(task, shapesOf(deviceTask(task, assignment)));
      const sender = senderOf(global);
      const resultOf = (up: Delivery): LaneResult => {
        if (up.kind !== kind) throw outOfTurn(`"${up.kind}" came, the task asks for "${kind}"`);
        const weight = contributionWeight(task, up.fields, stepsAsked(task));
        const decoded = decodeUpdate(up.tensors, shapes);
        const update = up.kind === "gradient" ? gradientStep(task, info, decoded) : decoded;
        return { kind: "contribution", deviceId, weight, update };
      };
      const delivery = deliveryLane<FullDown, Delivery>(
        { kind: "model", ...sender.first },
        resultOf,
      );
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

type Delivery = Exclude<FullUp, { kind: "catchUp" }>;

const deliveryKinds = { parameters: "update", gradients: "gradient" } as const;

/** -eta * g with the learning rate of the round's first step: how a gradient enters a mean of updates. */
function gradientStep(task: Task, info: RoundInfo, gradient: Parameters): Parameters {
  return scaleBundle(gradient, -rateOf(task, info)(0));
}
