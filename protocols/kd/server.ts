// Coordinator end of `kd`: collects the devices' logits, distils them into the global model after the
// round's mean, and hands out the global model's own logits.
import { loadPredictor, type Parameters, predictAll } from "../../runtime/index.ts";
import { deliveryLane } from "../delivery-lane.ts";
import { perGlobal } from "../per-global.ts";
import { batchShape, labelsOf, modelSpec } from "../plan.ts";
import type { ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";
import { approach, distanceTo, teacherOf } from "./refinement.ts";

/** Lanes of `kd` and the distillation after the mean. */
export async function createKdServer(context: ServerContext): Promise<ServerSide<KdDown, KdUp>> {
  const { task, engine, model, publicSet } = context;
  const size = { examples: publicSet.length, classes: labelsOf(task).length };
  const scale = { classes: size.classes, temperature: task.kd.temperature };
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  const distillation = await loadDistillation(engine, task, modelSpec(task, model));
  const predict = (parameters: Parameters) =>
    predictAll(predictor, parameters, publicSet, batchShape(task));
  const knowledge = perGlobal(async ({ round, parameters }): Promise<KdDown> => {
    if (round === 0) return { kind: "begin", fields: {}, tensors: new Map() };
    return { kind: "knowledge", ...packLogits(await predict(parameters), size, task.kd) };
  });
  return {
    openLane: async ({ deviceId }, _info, global) =>
      deliveryLane(await knowledge(global), (up) => ({
        kind: "knowledge",
        deviceId,
        weight: contributionWeight(task, up.fields),
        logits: unpackLogits(up, size),
      })),
    refine: async (reports, { round, global, contributorWeight }) => {
      if (reports.length === 0) return undefined;
      const start = global.parameters;
      const own = { weight: contributorWeight, logits: await predict(start) };
      const teacher = teacherOf([own, ...reports], scale);
      const lesson = { initial: start, publicSet, teacher, key: ["refinement", round] };
      const { parameters } = await distil(task, distillation, lesson);
      return approach({
        start,
        aim: parameters,
        startDistance: distanceTo(teacher, own.logits, scale),
        distanceOf: async (candidate) => distanceTo(teacher, await predict(candidate), scale),
      });
    },
    close: async () => {
      await predictor.close();
      await distillation.close();
    },
  };
}
