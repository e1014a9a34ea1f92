// Device end of `split` (Split-FedLLM): its part of the model, forward and backward, with the rest across the wire.
import { adamW, type Parameters } from "../../runtime/index.ts";
import { readSection, stageSections } from "../client-memory.ts";
import { protocolErrors } from "../errors.ts";
import { type EncodedGlobal, receiveGlobal, rememberGlobal } from "../global-model.ts";
import { gradientRule } from "../gradient-rule.ts";
import { reportOf } from "../local-training.ts";
import { difference, subset } from "../payload.ts";
import { batchesOf, initialOf, rateOf, roundBatches, roundMaskKey, trainedPart } from "../plan.ts";
import type { ClientContext, ClientSide, RoundInfo, RoundLink } from "../protocol.ts";
import { encodeChange, rememberResidual } from "../update-encoding.ts";
import { crossingsOf } from "./crossing.ts";
import { cutsOf, deviceShapes, labelRefusal } from "./cut.ts";
import {
  type DevicePart,
  type DeviceRound,
  expectKind,
  type StepWork,
  unexpected,
} from "./device-part.ts";
import { openFrontPart } from "./front-part.ts";
import { recall, remember } from "./memories.ts";
import type { Down, SplitDown, SplitUp } from "./messages.ts";
import { openOuterParts } from "./outer-parts.ts";
import { deviceWire } from "./outgoing.ts";

/**
 * Loads the device's part of the model and trains it step by step with the coordinator.
 * Throws `PROTOCOL_LABELS_WOULD_LEAVE` when the task does not allow that.
 */
export async function createSplitClient(
  context: ClientContext,
): Promise<ClientSide<SplitDown, SplitUp>> {
  const { task, assignment, state, rows, train: examples } = context;
  const cuts = cutsOf(assignment, task);
  const refusal = labelRefusal(task);
  if (refusal) throw protocolErrors.error("PROTOCOL_LABELS_WOULD_LEAVE", `split: ${refusal}`);
  const initial = subset(initialOf(task), deviceShapes(task, cuts).keys());
  const part: DevicePart = task.split.uShape
    ? await openOuterParts(context, cuts)
    : await openFrontPart(context, cuts);
  const crossings = crossingsOf(task, cuts);
  const gradient = task.split.uShape ? "statesGradient" : undefined;
  return {
    runRound: async (info, start, link, signal) => {
      if (start.kind !== "front") throw unexpected(start);
      const catchUp = () => askTheta(link);
      const theta = await receiveGlobal(thetaOf(start), { task, state, initial, catchUp });
      const memory = await recall(rows, { task, cuts, crossings, gradient }, info);
      const wire = deviceWire(task, crossings, { ...memory, texts: examples.length });
      wire.meet(start.fields.memory);
      const round = openRound(context, theta, { link, wire, rateAt: rateOf(task, info) });
      let steps = 0;
      let totalLoss = 0;
      for (const [work, next] of withNext(stepsOf(context, info))) {
        signal.throwIfAborted();
        const loss = await part.step(round, work, next);
        wire.note(loss);
        totalLoss += loss;
        steps += 1;
      }
      const score = await part.score(round, signal);
      signal.throwIfAborted();
      const fields = { examples: examples.length, steps, squares: round.squares };
      const change = difference(trainedPart(task, round.optimizer.parameters), theta);
      const update = encodeChange(task, change, await readSection(state, "residual"));
      await stageSections(state, {
        ...rememberGlobal(task, theta, info.round),
        ...rememberResidual(update),
      });
      await remember(rows, wire.memory, { ...info, ...cuts });
      const trained = { steps, meanLoss: totalLoss / steps, flops: steps * part.flops };
      const report = reportOf(context, trained, score);
      await link.send({ kind: "update", fields, tensors: update.encoded }, report);
      return report;
    },
    close: () => part.close(),
  };
}

/** The steps of a round, each made when it is its turn. */
function* stepsOf(
  { task, deviceId, train: examples }: ClientContext,
  { round }: RoundInfo,
): Iterable<StepWork> {
  const maskKey = roundMaskKey(task, deviceId, round);
  const order = roundBatches(task, deviceId, round, examples.length);
  let step = 0;
  for (const batch of batchesOf(task, examples, order)) {
    yield { step, batch, texts: order[step] as number[], maskKey: [...maskKey, step] };
    step += 1;
  }
}

/** Each item with the one behind it. */
function* withNext<T>(items: Iterable<T>): Iterable<readonly [T, T | undefined]> {
  let last: T | undefined;
  for (const item of items) {
    if (last !== undefined) yield [last, item];
    last = item;
  }
  if (last !== undefined) yield [last, undefined];
}

/** The whole parameters of the device's part. */
async function askTheta(link: RoundLink<SplitDown, SplitUp>): Promise<EncodedGlobal> {
  const answer = await link.ask({ kind: "catchUp", fields: {}, tensors: new Map() });
  return thetaOf(expectKind(answer, "front"));
}

function thetaOf({ fields, tensors }: Down<"front">): EncodedGlobal {
  return { fields: fields.theta, tensors };
}

function openRound(
  context: ClientContext,
  theta: Parameters,
  { link, wire, rateAt }: Pick<DeviceRound, "link" | "wire" | "rateAt">,
): DeviceRound {
  const { task } = context;
  const optimizer = adamW(theta, { weightDecay: task.training.weightDecay });
  const adjust = gradientRule(task, theta);
  return { context, link, wire, rateAt, optimizer, adjust, squares: {} };
}
