// Coordinator end of `kd`: collects the devices' logits, distils them into the global model after the
// round's mean, and hands out the global model's own logits.
import { loadPredictor, type Parameters, predictAll } from "../../runtime/index.ts";
import { batchShape, modelSpec } from "../plan.ts";
import type {
  GlobalModel,
  KnowledgeReport,
  RefinementInput,
  ServerContext,
  ServerSide,
} from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, softmax, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";

/** Lanes of `kd`; they keep nothing but the logits, so they survive a restart. */
export async function createKdServer(context: ServerContext): Promise<ServerSide<KdDown, KdUp>> {
  const { task, engine, model, publicSet } = context;
  const size = { examples: publicSet.length, classes: task.head.labels.length };
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  const distillation = await loadDistillation(engine, task, model);
  const predict = (parameters: Parameters) =>
    predictAll(predictor, parameters, publicSet, batchShape(task));
  const knowledge = perModel(async (global) => {
    if (global.round === 0) return { kind: "begin", fields: {}, tensors: new Map() } as const;
    return {
      kind: "knowledge",
      ...packLogits(await predict(global.parameters), size, task.kd),
    } as const;
  });
  return {
    openLane: async ({ deviceId }, _info, global) => {
      let result: KnowledgeReport | undefined;
      return {
        first: await knowledge(global),
        resumable: true,
        receive: async (up) => {
          const weight = contributionWeight(task, up.fields);
          result = { kind: "knowledge", deviceId, weight, logits: unpackLogits(up, size) };
          return undefined;
        },
        finish: async () => result,
        close: async () => {},
      };
    },
    refine: async (reports, input) => {
      if (reports.length === 0) return undefined;
      const own = await predict(input.global.parameters);
      const teacher = teacherOf(reports, own, {
        classes: size.classes,
        temperature: task.kd.temperature,
        input,
      });
      const key = ["refinement", input.round];
      const lesson = { initial: input.global.parameters, publicSet, teacher, key };
      return (await distil(task, distillation, lesson)).parameters;
    },
    close: async () => {
      await predictor.close();
      await distillation.close();
    },
  };
}

/**
 * Weighted mean of the devices' distributions and the global model's own. The global model counts as much
 * as the parameter contributors behind it, so that one small board cannot pull it away.
 */
function teacherOf(
  reports: readonly KnowledgeReport[],
  own: Float32Array,
  {
    classes,
    temperature,
    input,
  }: { readonly classes: number; readonly temperature: number; readonly input: RefinementInput },
): Float32Array {
  const voices = [
    { weight: input.contributorWeight, logits: own },
    ...reports.map(({ weight, logits }) => ({ weight, logits })),
  ];
  const total = voices.reduce((sum, { weight }) => sum + weight, 0);
  const mean = new Float64Array(own.length);
  for (const { weight, logits } of voices) {
    const distribution = softmax(logits, classes, temperature);
    for (let i = 0; i < mean.length; i++)
      mean[i] = (mean[i] as number) + (weight / total) * (distribution[i] as number);
  }
  return Float32Array.from(mean);
}

/** Remembers the answer for one global model: every lane of a round asks for the same. */
function perModel<T>(
  compute: (global: GlobalModel) => Promise<T>,
): (global: GlobalModel) => Promise<T> {
  let last: { readonly global: GlobalModel; readonly answer: Promise<T> } | undefined;
  return (global) => {
    if (last?.global !== global) last = { global, answer: compute(global) };
    return last.answer;
  };
}
