// A device with the front alone: activations and labels go up, the gradient at the cut comes down.
import {
  type Batch,
  type Front,
  loadFront,
  makeBatch,
  scoreClassification,
} from "../../runtime/index.ts";
import { batchCount, type HoldOutScore } from "../local-training.ts";
import { decodeOnly } from "../payload.ts";
import { batchShape, labelsOf, modelSpec } from "../plan.ts";
import type { ClientContext } from "../protocol.ts";
import { type Crossings, crossingsOf, decodeCrossing, encodeCrossing } from "./crossing.ts";
import type { Cuts } from "./cut.ts";
import {
  type DevicePart,
  type DeviceRound,
  expectGradient,
  expectKind,
  type StepPlace,
  stepDevice,
} from "./device-part.ts";

/** Loads the front. */
export async function openFrontPart(context: ClientContext, cuts: Cuts): Promise<DevicePart> {
  const { task, engine, model } = context;
  context.log("split: the labels of the training texts go to the coordinator, the texts stay here");
  const front = await loadFront(engine, modelSpec(task, model), cuts.cutLayer);
  const loaded = { front, crossings: crossingsOf(task, cuts) };
  return {
    flops: front.flops,
    step: (round, batch, place) => trainStep(loaded, round, { batch, ...place }),
    score: (round, signal) => scoreHoldOut(loaded, round, signal),
    close: () => front.close(),
  };
}

interface LoadedFront {
  readonly front: Front;
  readonly crossings: Crossings;
}

async function trainStep(
  { front, crossings }: LoadedFront,
  round: DeviceRound,
  { batch, step, maskKey }: StepPlace & { readonly batch: Batch },
): Promise<number> {
  const { optimizer, link, squares } = round;
  const { lengths, labels } = batch;
  const feeds = front.withMasks(batch.feeds, maskKey);
  const activations = await front.forward(optimizer.parameters, feeds);
  const tensors = encodeCrossing(crossings.activations, activations, lengths);
  const fields = { step, lengths: [...lengths], labels: [...labels], squares };
  const answer = expectGradient(await link.ask({ kind: "activations", fields, tensors }), step);
  const cutGradient = decodeCrossing(crossings.cutGradient, answer.tensors, lengths);
  const gradients = await front.backward(optimizer.parameters, feeds, cutGradient);
  stepDevice(round, gradients, answer);
  return answer.fields.loss ?? Number.NaN;
}

/** Accuracy on the hold-out: front here, tail there. */
async function scoreHoldOut(
  { front, crossings }: LoadedFront,
  round: DeviceRound,
  signal: AbortSignal,
): Promise<HoldOutScore | undefined> {
  const { optimizer, link, context } = round;
  const { task, holdOut } = context;
  if (holdOut.length === 0) return undefined;
  const shape = batchShape(task);
  const classes = labelsOf(task).length;
  const logits = new Float32Array(holdOut.length * classes);
  for (let first = 0; first < holdOut.length; first += shape.batch) {
    signal.throwIfAborted();
    const { feeds, lengths, size } = makeBatch(holdOut.slice(first, first + shape.batch), shape);
    const activations = await front.evaluate(optimizer.parameters, feeds);
    const tensors = encodeCrossing(crossings.activations, activations, lengths);
    const fields = { lengths: [...lengths], squares: round.squares };
    const answer = expectKind(await link.ask({ kind: "evaluate", fields, tensors }), "logits");
    round.squares = {};
    const { data } = decodeOnly(answer.tensors, "logits", [shape.batch, classes]);
    logits.set(data.subarray(0, size * classes), first * classes);
  }
  const flops = batchCount(holdOut.length, shape.batch) * front.forwardFlops;
  const labels = holdOut.map(({ label }) => label);
  return { score: { accuracy: scoreClassification(logits, labels).accuracy }, flops };
}
