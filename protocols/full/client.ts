// Device end of `full` (FedLLM): theta_t in, E local steps or a mean gradient, what came of them out.
import type { Parameters } from "../../runtime/index.ts";
import { leadingRanks } from "../aggregation/index.ts";
import { readSection, type SectionChanges, stageSections } from "../client-memory.ts";
import { receiveGlobal, rememberGlobal } from "../global-model.ts";
import { readMoments, rememberMoments } from "../kept-moments.ts";
import { type LocalModel, openLocalModel, reportOf, type Trained } from "../local-training.ts";
import { difference } from "../payload.ts";
import { initialOf, trainedPart } from "../plan.ts";
import type { ClientContext, ClientSide, RoundInfo } from "../protocol.ts";
import { encodeChange, rememberResidual } from "../update-encoding.ts";
import { deviceTask } from "./device-task.ts";
import type { FullDown, FullUp } from "./messages.ts";

/** Loads the whole model and uses it once a round. */
export async function createFullClient(
  context: ClientContext,
): Promise<ClientSide<FullDown, FullUp>> {
  const { task, state } = context;
  const initial = initialOf(task);
  const own = deviceTask(task, context.assignment);
  const local = await openLocalModel({ ...context, task: own });
  const work = works[task.full.mode];
  return {
    runRound: async (info, start, link, signal) => {
      const catchUp = () => link.ask({ kind: "catchUp", fields: {}, tensors: new Map() });
      const global = await receiveGlobal(start, { task, state, initial, catchUp });
      const theta = leadingRanks(global, own.adapter.rank);
      const { kind, change, parameters, trained, kept } = await work({
        context,
        local,
        theta,
        info,
        signal,
      });
      const sent = encodeChange(own, change, await readSection(state, "residual"));
      await stageSections(state, {
        ...rememberGlobal(task, global, info.round),
        ...rememberResidual(sent),
        ...kept,
      });
      const fields = { examples: context.train.length, steps: trained.steps };
      const soFar = reportOf(context, trained, undefined);
      await link.send({ kind, fields, tensors: sent.encoded }, soFar);
      return reportOf(context, trained, await local.score(parameters, signal));
    },
    close: () => local.close(),
  };
}

/** What a round's work starts from. */
interface Work {
  readonly context: ClientContext;
  readonly local: LocalModel;
  readonly theta: Parameters;
  readonly info: RoundInfo;
  readonly signal: AbortSignal;
}

/** What is sent, and the model that the device scores. */
interface Worked {
  readonly kind: "update" | "gradient";
  readonly change: Parameters;
  readonly parameters: Parameters;
  readonly trained: Trained;
  /** What else the device remembers. */
  readonly kept: SectionChanges;
}

const works: { readonly [M in "parameters" | "gradients"]: (work: Work) => Promise<Worked> } = {
  parameters: async ({ context, local, theta, info, signal }) => {
    const moments = await readMoments(context, theta);
    const trained = await local.train(theta, info, signal, { center: theta, moments });
    const { parameters } = trained;
    const change = difference(trainedPart(context.task, parameters), theta);
    const kept = rememberMoments(context, trained.moments);
    return { kind: "update", change, parameters, trained, kept };
  },
  gradients: async ({ local, theta, info, signal }) => {
    const trained = await local.gradient(theta, info, signal);
    return { kind: "gradient", change: trained.gradient, parameters: theta, trained, kept: {} };
  },
};
