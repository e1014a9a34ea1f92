// Coordinator end of `kd`: collects the devices' logits, distils them into the global model after the
// round's mean, and hands out the global model's own logits.
import { loadPredictor, type Parameters, predictAll } from "../../runtime/index.ts";
import { deliveryLane } from "../delivery-lane.ts";
import { perGlobal } from "../per-global.ts";
import { batchShape, modelSpec } from "../plan.ts";
import type { KnowledgeReport, ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, softmax, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";

/** Lanes of `kd` and the distillation after the mean. */
export async function createKdServer(context: ServerContext): Promise<ServerSide<KdDown, KdUp>> {
  const { task, engine, model, publicSet } = context;
  const size = { examples: publicSet.length, classes: task.head.labels.length };
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  const distillation = await loadDistillation(engine, task, model);
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
      const initial = global.parameters;
      const own = { weight: contributorWeight, logits: await predict(initial) };
      const teacher = teacherOf([own, ...reports], size.classes, task.kd.temperature);
      const lesson = { initial, publicSet, teacher, key: ["refinement", round] };
      return (await distil(task, distillation, lesson)).parameters;
    },
    close: async () => {
      await predictor.close();
      await distillation.close();
    },
  };
}

/**
 * Weighted mean of distributions [public examples, classes]. The global model's own logits are among the
 * voices and count as much as the parameter contributors behind it, so that one small board cannot pull it away.
 */
export function teacherOf(
  voices: readonly Pick<KnowledgeReport, "weight" | "logits">[],
  classes: number,
  temperature: number,
): Float32Array {
  const total = voices.reduce((sum, { weight }) => sum + weight, 0);
  const mean = new Float64Array(voices[0]?.logits.length ?? 0);
  for (const { weight, logits } of voices) {
    softmax(logits, classes, temperature).forEach((probability, i) => {
      mean[i] = (mean[i] as number) + (weight / total) * probability;
    });
  }
  return Float32Array.from(mean);
}
