// Coordinator end of `split`: a tail copy for every device (SplitFed V1; Thapa et al. 2022, arXiv
// 2004.12088), the step graphs shared by all lanes of one cut.
import { loadPredictor, loadStep } from "../../runtime/index.ts";
import { globalSender } from "../global-model.ts";
import { modelSpec } from "../plan.ts";
import type { ServerContext, ServerSide } from "../protocol.ts";
import { cutLayerOf } from "./cut.ts";
import { openSplitLane } from "./lane.ts";
import type { SplitDown, SplitUp } from "./messages.ts";
import type { Tail } from "./tail.ts";

/** Lanes of `split`; a lane lives in memory only, so a restart begins it again. */
export async function createSplitServer({
  task,
  engine,
  model,
}: ServerContext): Promise<ServerSide<SplitDown, SplitUp>> {
  const tails = new Map<number, Promise<Tail>>();
  const spec = modelSpec(task, model);
  const senderOf = globalSender();
  const load = async (from: number): Promise<Tail> => ({
    step: await loadStep(engine, spec, { from }),
    predictor: await loadPredictor(engine, spec, { from }),
  });
  const tailAt = (cutLayer: number): Promise<Tail> => {
    const loading = tails.get(cutLayer) ?? load(cutLayer);
    tails.set(cutLayer, loading);
    return loading;
  };
  return {
    openLane: async (assignment, info, global) => {
      const cutLayer = cutLayerOf(assignment, task);
      const tail = await tailAt(cutLayer);
      const { deviceId } = assignment;
      const sender = senderOf(global);
      return openSplitLane({ task, tail, cutLayer, deviceId, info, global, sender });
    },
    close: async () => {
      for (const tail of await Promise.all(tails.values())) {
        await tail.step.close();
        await tail.predictor.close();
      }
      tails.clear();
    },
  };
}
