// Coordinator end of `kd`: collects the devices' logits, distils them into the global model after the
// round's mean, and hands out the global model's own logits.
import { loadPredictor } from "../../runtime/index.ts";
import { deliveryLane } from "../delivery-lane.ts";
import { perGlobal } from "../per-global.ts";
import { modelSpec } from "../plan.ts";
import type { ServerContext, ServerSide } from "../protocol.ts";
import { contributionWeight } from "../weight.ts";
import { distanceTo } from "./distance.ts";
import { distil, loadDistillation } from "./distillation.ts";
import { packLogits, unpackLogits } from "./logits.ts";
import type { KdDown, KdUp } from "./messages.ts";
import { logitsOf, rankedOpinion } from "./opinion.ts";
import { publicRows } from "./public-rows.ts";
import { publicSlice } from "./public-slice.ts";
import { approach } from "./refinement.ts";
import { createTeacher } from "./teacher.ts";
import { chooseLogits } from "./top-k.ts";

/** Lanes of `kd` and the distillation after the mean. */
export async function createKdServer(context: ServerContext): Promise<ServerSide<KdDown, KdUp>> {
  const { task, engine, model, publicSet } = context;
  const { encoding, encodingDown = encoding } = task.kd;
  const predictor = await loadPredictor(engine, modelSpec(task, model));
  const distillation = await loadDistillation(engine, task, modelSpec(task, model));
  const rowsOf = (round: number) => publicRows(task, publicSlice(task, publicSet, round));
  const opinion = perGlobal(({ round, parameters }) =>
    rankedOpinion(task, rowsOf(round + 1), { predictor, parameters }),
  );
  return {
    openLane: async ({ deviceId, allowance }, { round }, global) => {
      const choice = { task, encoding: encodingDown, mostBytes: allowance?.downlinkBytes };
      const first: KdDown =
        global.round === 0
          ? { kind: "begin", fields: {}, tensors: new Map() }
          : {
              kind: "knowledge",
              ...packLogits(chooseLogits(await opinion(global), choice), encodingDown),
            };
      return deliveryLane(first, (up) => ({
        kind: "knowledge",
        protocol: "kd",
        deviceId,
        weight: contributionWeight(task, up.fields),
        logits: unpackLogits(up, rowsOf(round)),
      }));
    },
    refine: async (reports, { round, global, contributorWeight, record }) => {
      if (reports.length === 0) return undefined;
      const start = global.parameters;
      const rows = rowsOf(round);
      const logits = await logitsOf(task, rows, { predictor, parameters: start });
      const own = { weight: contributorWeight, logits };
      const teacher = await createTeacher(task, rows, { voices: reports, own });
      const lesson = { initial: start, rows, teacher, key: ["refinement", round] };
      const { parameters: aim } = await distil(task, distillation, lesson);
      const distanceOf = (parameters: typeof start) =>
        distanceTo(task, rows, { teacher, predictor, parameters });
      const startDistance = await distanceOf(start);
      const reached = await approach({ start, aim, startDistance, distanceOf });
      const endDistance = reached?.distance ?? startDistance;
      record?.({
        divergenceBefore: startDistance.divergence,
        divergenceAfter: endDistance.divergence,
        agreementBefore: startDistance.agreement,
        agreementAfter: endDistance.agreement,
      });
      return reached?.parameters;
    },
    close: async () => {
      await predictor.close();
      await distillation.close();
    },
  };
}
