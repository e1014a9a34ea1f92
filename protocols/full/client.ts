// Device end of `full` (FedLLM): theta_t in, E local steps, update out.
import { encodeAll } from "../encoding/index.ts";
import { decodeGlobal } from "../global-model.ts";
import { openLocalModel, reportOf } from "../local-training.ts";
import { difference } from "../payload.ts";
import { initialOf } from "../plan.ts";
import type { ClientContext, ClientSide } from "../protocol.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Loads the whole model and trains it once a round. */
export async function createFullClient(
  context: ClientContext,
): Promise<ClientSide<FullDown, FullUp>> {
  const { task } = context;
  const { encoding, keepFraction } = task.full;
  const initial = initialOf(task);
  const local = await openLocalModel(context);
  return {
    runRound: async (info, start, link, signal) => {
      const theta = decodeGlobal(start, initial);
      const trained = await local.train(theta, info, signal);
      const update = difference(trained.parameters, theta);
      const tensors = encodeAll(update, encoding, { keepFraction });
      const fields = { examples: context.train.length, steps: trained.steps };
      await link.send({ kind: "update", fields, tensors });
      return reportOf(context, trained, await local.score(trained.parameters, signal));
    },
    close: () => local.close(),
  };
}
