// Device end of `kd` (KD-FedLLM): learn from the coordinator's logits, then from private data, then tell
// what the local model makes of the public set.
import { type Parameters, type Predictor, predictAll, specInMode } from "../../runtime/index.ts";
import { readSection, stageSections } from "../client-memory.ts";
import { batchCount, openLocalModel, reportOf } from "../local-training.ts";
import { batchShape, initialOf, labelsOf, modelSpec } from "../plan.ts";
import type { ClientContext, ClientSide } from "../protocol.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, softmax, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";

/** Loads a whole local model; it stays on the device from round to round and never travels. */
export async function createKdClient(context: ClientContext): Promise<ClientSide<KdDown, KdUp>> {
  const { task, engine, model, deviceId, state } = context;
  const publicSet = await context.publicSet();
  const local = await openLocalModel(context);
  const { mode = "whole-float32" } = context.assignment;
  const spec = await specInMode(modelSpec(task, model), mode);
  const distillation = await loadDistillation(engine, task, spec);
  const size = { examples: publicSet.length, classes: labelsOf(task).length };

  const learn = async (initial: Parameters, start: KdDown, round: number, signal: AbortSignal) => {
    if (start.kind === "begin") return { parameters: initial, flops: 0 };
    const teacher = softmax(unpackLogits(start, size), size.classes, task.kd.temperature);
    const key = ["distillation", round, deviceId];
    return distil(task, distillation, { initial, publicSet, teacher, key, signal });
  };
  const opinionOf = async (parameters: Parameters, signal: AbortSignal) => {
    const predictor = local.predictor as Predictor;
    const source: Pick<Predictor, "run"> = {
      run: async (current, feeds) => {
        signal.throwIfAborted();
        return await predictor.run(current, feeds);
      },
    };
    const shape = batchShape(task);
    const logits = await predictAll(source, parameters, publicSet, shape);
    signal.throwIfAborted();
    return { logits, flops: predictor.flops * batchCount(publicSet.length, shape.batch) };
  };
  return {
    runRound: async (info, start, link, signal) => {
      const before = (await readSection(state, "local")) ?? initialOf(task);
      const taught = await learn(before, start, info.round, signal);
      const trained = await local.train(taught.parameters, info, signal);
      const opinion = await opinionOf(trained.parameters, signal);
      const packed = packLogits(opinion.logits, size, task.kd);
      const fields = { ...packed.fields, examples: context.train.length, steps: trained.steps };
      await stageSections(state, { local: trained.parameters });
      await link.send({ ...packed, kind: "knowledge", fields });
      const flops = taught.flops + trained.flops + opinion.flops;
      const score = await local.score(trained.parameters, signal);
      return reportOf(context, { ...trained, flops }, score);
    },
    close: async () => {
      await local.close();
      await distillation.close();
    },
  };
}
