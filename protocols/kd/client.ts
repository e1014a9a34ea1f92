// Device end of `kd` (KD-FedLLM): learn from the coordinator's logits, then from private data, then tell
// what the local model makes of the public texts.
import { loadPredictor, type Parameters, specInMode } from "../../runtime/index.ts";
import { stageSections } from "../client-memory.ts";
import { readMoments, rememberMoments } from "../kept-moments.ts";
import { batchCount, openLocalModel, reportOf } from "../local-training.ts";
import { modelSpec } from "../plan.ts";
import type { ClientContext, ClientSide, RoundInfo } from "../protocol.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";
import { dropsLogits, logitsOf, rankedOpinion } from "./opinion.ts";
import { type PublicRows, publicRows } from "./public-rows.ts";
import { publicSlice } from "./public-slice.ts";
import { endOf, startOf } from "./start.ts";
import { createTeacher } from "./teacher.ts";
import { chooseLogits } from "./top-k.ts";

/** Loads a whole local model; it stays on the device from round to round and never travels. */
export async function createKdClient(context: ClientContext): Promise<ClientSide<KdDown, KdUp>> {
  const { task, engine, model, deviceId, state } = context;
  const { mode = "whole-float32" } = context.assignment;
  const { allowance = () => context.assignment.allowance } = context;
  const publicSet = await context.publicSet();
  const local = await openLocalModel(context);
  const spec = await specInMode(modelSpec(task, model), mode);
  // A classifier is scored by its logits, so they are at hand already.
  const predictor = local.predictor ?? (await loadPredictor(engine, spec));
  const distillation = await loadDistillation(engine, task, spec);

  const learn = async (initial: Parameters, start: KdDown, rows: PublicRows, at: Moment) => {
    if (start.kind === "begin") return { parameters: initial, flops: 0 };
    const { info, signal } = at;
    const voices = [{ weight: 1, logits: unpackLogits(start, rows) }];
    const prediction = { predictor, parameters: initial, signal };
    const logits = dropsLogits(task, rows.classes)
      ? await logitsOf(task, rows, prediction)
      : undefined;
    const teacher = await createTeacher(task, rows, { voices, own: { weight: 0, logits } });
    const key = ["distillation", info.round, deviceId];
    const learned = await distil(task, distillation, { initial, rows, teacher, key, signal });
    return { parameters: learned.parameters, flops: learned.flops + (logits?.flops() ?? 0) };
  };
  return {
    runRound: async (info, start, link, signal) => {
      const rows = publicRows(task, publicSlice(task, publicSet, info.round));
      const before = await startOf(task, state);
      const taught = await learn(before, start, rows, { info, signal });
      const moments = await readMoments(context, taught.parameters);
      const trained = await local.train(taught.parameters, info, signal, { moments });
      const { parameters } = trained;
      const ranked = await rankedOpinion(task, rows, { predictor, parameters, signal });
      const { encoding } = task.kd;
      const choice = { task, encoding, mostBytes: allowance()?.uplinkBytes };
      const packed = packLogits(chooseLogits(ranked, choice), encoding);
      const fields = { ...packed.fields, examples: context.train.length, steps: trained.steps };
      await stageSections(state, {
        ...endOf(task, parameters),
        ...rememberMoments(context, trained.moments),
      });
      const opinionFlops = predictor.flops * batchCount(rows.texts.length, task.training.batchSize);
      const done = { ...trained, flops: taught.flops + trained.flops + opinionFlops };
      const soFar = reportOf(context, done, undefined);
      await link.send({ ...packed, kind: "knowledge", fields }, soFar);
      return reportOf(context, done, await local.score(parameters, signal));
    },
    close: async () => {
      await local.close();
      if (predictor !== local.predictor) await predictor.close();
      await distillation.close();
    },
  };
}

interface Moment {
  readonly info: RoundInfo;
  readonly signal: AbortSignal;
}
