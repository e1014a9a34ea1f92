// A device with the front alone: activations and labels go up, the gradient at the cut comes down.
import { type Front, loadFront, makeBatch, scoreClassification } from "../../runtime/index.ts";
import { batchCount, type HoldOutScore } from "../local-training.ts";
import { decodeOnly } from "../payload.ts";
import { batchShape, labelsOf, modelSpec } from "../plan.ts";
import type { ClientContext } from "../protocol.ts";
import { decodeCrossing } from "./crossing.ts";
import type { Cuts } from "./cut.ts";
import {
  type DevicePart,
  type DeviceRound,
  expectGradient,
  expectKind,
  numbersOf,
  type StepWork,
  stepDevice,
} from "./device-part.ts";
import { passOf, whileAsked } from "./front-pass.ts";

/** Loads the front. */
export async function openFrontPart(context: ClientContext, cuts: Cuts): Promise<DevicePart> {
  const { task, engine, model } = context;
  context.log("split: the labels of the training texts go to the coordinator, the texts stay here");
  const front = await loadFront(engine, modelSpec(task, model), cuts.cutLayer);
  return {
    flops: front.flops,
    step: (round, work, next) => trainStep(front, round, work, next),
    score: (round, signal) => scoreHoldOut(front, round, signal),
    close: () => front.close(),
  };
}

async function trainStep(
  front: Front,
  round: DeviceRound,
  work: StepWork,
  next: StepWork | undefined,
): Promise<number> {
  const { link, wire, squares } = round;
  const { step, texts } = work;
  const { lengths, labels } = work.batch;
  const { parameters, feeds, activations } = await passOf(front, round, work);
  const sent = wire.activations(activations, { lengths, texts });
  const fields = { step, ...sent.fields, labels: [...labels], squares };
  const { tensors } = sent;
  const asked = link.ask({ kind: "activations", fields, tensors });
  const answer = expectGradient(await whileAsked(asked, { front, round, next }), step);
  const cutGradient = decodeCrossing(wire.crossings.cutGradient, answer.tensors, lengths);
  const found = await front.backward(parameters, feeds, cutGradient);
  stepDevice(round, { found, from: parameters }, answer);
  return answer.fields.loss ?? Number.NaN;
}

/** Accuracy on the hold-out: front here, tail there. */
async function scoreHoldOut(
  front: Front,
  round: DeviceRound,
  signal: AbortSignal,
): Promise<HoldOutScore | undefined> {
  const { optimizer, link, wire, context } = round;
  const { task, holdOut } = context;
  if (holdOut.length === 0) return undefined;
  const shape = batchShape(task);
  const classes = labelsOf(task).length;
  const logits = new Float32Array(holdOut.length * classes);
  for (let first = 0; first < holdOut.length; first += shape.batch) {
    signal.throwIfAborted();
    const { feeds, lengths, size } = makeBatch(holdOut.slice(first, first + shape.batch), shape);
    const activations = await front.evaluate(optimizer.parameters, feeds);
    const texts = numbersOf(context, first, size);
    const { fields: sent, tensors } = wire.activations(activations, { lengths, texts });
    const fields = { ...sent, squares: round.squares };
    const answer = expectKind(await link.ask({ kind: "evaluate", fields, tensors }), "logits");
    round.squares = {};
    const { data } = decodeOnly(answer.tensors, "logits", [shape.batch, classes]);
    logits.set(data.subarray(0, size * classes), first * classes);
  }
  const flops = batchCount(holdOut.length, shape.batch) * front.forwardFlops;
  const labels = holdOut.map(({ label }) => label);
  return { score: { accuracy: scoreClassification(logits, labels).accuracy }, flops };
}
