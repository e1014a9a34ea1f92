// Device end of `full` (FedLLM): theta_t in, E local steps, update out.
import { readSection, stageSections } from "../client-memory.ts";
import { receiveGlobal, rememberGlobal } from "../global-model.ts";
import { openLocalModel, reportOf } from "../local-training.ts";
import { difference } from "../payload.ts";
import { initialOf } from "../plan.ts";
import type { ClientContext, ClientSide } from "../protocol.ts";
import { encodeChange, rememberResidual } from "../update-encoding.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Loads the whole model and trains it once a round. */
export async function createFullClient(
  context: ClientContext,
): Promise<ClientSide<FullDown, FullUp>> {
  const { task, state } = context;
  const initial = initialOf(task);
  const local = await openLocalModel(context);
  return {
    runRound: async (info, start, link, signal) => {
      const catchUp = () => link.ask({ kind: "catchUp", fields: {}, tensors: new Map() });
      const theta = await receiveGlobal(start, { state, initial, catchUp });
      const trained = await local.train(theta, info, signal);
      const change = difference(trained.parameters, theta);
      const update = encodeChange(task, change, await readSection(state, "residual"));
      await stageSections(state, {
        ...rememberGlobal(task, theta, info.round),
        ...rememberResidual(update),
      });
      const fields = { examples: context.train.length, steps: trained.steps };
      await link.send({ kind: "update", fields, tensors: update.encoded });
      return reportOf(context, trained, await local.score(trained.parameters, signal));
    },
    close: () => local.close(),
  };
}
