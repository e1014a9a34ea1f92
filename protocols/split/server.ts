// Coordinator end of `split`: a copy of its part of the model for every device (SplitFed V1; Thapa et al. 2022, arXiv
// 2004.12088) or one for those of a cut (V2), the graphs shared by all lanes of one cut.
import { loadMiddle, loadPredictor, loadStep } from "../../runtime/index.ts";
import { globalSender } from "../global-model.ts";
import { modelSpec } from "../plan.ts";
import type { ServerContext, ServerSide } from "../protocol.ts";
import { crossingsOf } from "./crossing.ts";
import { type Cuts, cutsOf } from "./cut.ts";
import { openSplitLane } from "./lane.ts";
import { recall, remember } from "./memories.ts";
import type { SplitDown, SplitUp } from "./messages.ts";
import { middleSide } from "./middle.ts";
import { sharedParts } from "./shared-part.ts";
import type { CoordinatorSide, SideOptions } from "./side.ts";
import { tailSide } from "./tail.ts";

/** Lanes of `split`; a lane lives in memory only, so a restart begins it again. */
export async function createSplitServer(
  context: ServerContext,
): Promise<ServerSide<SplitDown, SplitUp>> {
  const { task } = context;
  const parts = new Map<number, Promise<LoadedPart>>();
  const shared = sharedParts(task, context.after);
  const senderOf = globalSender(task);
  const partAt = (cuts: Cuts): Promise<LoadedPart> => {
    const loading = parts.get(cuts.cutLayer) ?? loadPart(context, cuts);
    parts.set(cuts.cutLayer, loading);
    return loading;
  };
  return {
    openLane: async (assignment, info, global) => {
      const cuts = cutsOf(assignment, task);
      const { sideOf } = await partAt(cuts);
      const { deviceId } = assignment;
      const sender = senderOf(global);
      const keeper = context.rowsOf(deviceId);
      const crossings = crossingsOf(task, cuts);
      const memory = await recall(keeper, { task, cuts, crossings, gradient: "cutGradient" }, info);
      return openSplitLane({
        ...{ task, cuts, crossings, deviceId, info, global, sender, sideOf, memory },
        remember: () => remember(keeper, memory, { ...info, ...cuts }),
        shared: task.split.tails === "shared" ? shared.open(info, cuts, global) : undefined,
      });
    },
    close: async () => {
      shared.close();
      for (const part of await Promise.all(parts.values())) await part.close();
      parts.clear();
    },
  };
}

/** The graphs of one cut. */
interface LoadedPart {
  sideOf(options: SideOptions): CoordinatorSide;
  close(): Promise<void>;
}

async function loadPart({ task, engine, model }: ServerContext, cuts: Cuts): Promise<LoadedPart> {
  const spec = modelSpec(task, model);
  const { cutLayer: from, tailFrom: to } = cuts;
  if (to !== undefined) {
    const middle = await loadMiddle(engine, spec, { from, to });
    return {
      sideOf: (options) => middleSide(middle, options),
      close: () => middle.close(),
    };
  }
  const step = await loadStep(engine, spec, { from });
  const predictor = await loadPredictor(engine, spec, { from });
  return {
    sideOf: (options) => tailSide({ step, predictor }, options),
    close: async () => {
      await step.close();
      await predictor.close();
    },
  };
}
