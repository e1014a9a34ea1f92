// A device with both ends of the model, a U-shape (Vepakomma et al. 2018, arXiv 1812.00564, section 2.2): the middle is at
// the coordinator, labels and loss never leave. Two exchanges a step.
import {
  type Batch,
  checkFinite,
  type Float32Tensor,
  type Front,
  loadFront,
  loadPredictor,
  loadStep,
  makeBatch,
  type Predictor,
  squaredNorms,
  type TensorBundle,
  type TrainingStep,
} from "../../runtime/index.ts";
import { accuracyOf, batchCount, type Score } from "../local-training.ts";
import { batchShape, modelSpec } from "../plan.ts";
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

/** Loads the front and the tail. */
export async function openOuterParts(context: ClientContext, cuts: Cuts): Promise<DevicePart> {
  const { task, engine, model } = context;
  const spec = modelSpec(task, model);
  const from = cuts.tailFrom ?? spec.model.config.layers;
  const front = await loadFront(engine, spec, cuts.cutLayer);
  const tail = await loadStep(engine, spec, { from });
  const predictor = await loadPredictor(engine, spec, { from });
  const loaded = { front, tail, predictor, crossings: crossingsOf(task, cuts) };
  return {
    flops: front.flops + tail.flops,
    step: (round, batch, place) => trainStep(loaded, round, { batch, ...place }),
    score: (round, signal) => scoreHoldOut(loaded, round, signal),
    close: async () => {
      await front.close();
      await tail.close();
      await predictor.close();
    },
  };
}

interface LoadedParts {
  readonly front: Front;
  readonly tail: TrainingStep;
  readonly predictor: Predictor;
  readonly crossings: Crossings;
}

async function trainStep(
  { front, tail, crossings }: LoadedParts,
  round: DeviceRound,
  { batch, step, maskKey }: StepPlace & { readonly batch: Batch },
): Promise<number> {
  const { optimizer, link, squares } = round;
  const { parameters } = optimizer;
  const { lengths } = batch;
  const feeds = front.withMasks(batch.feeds, maskKey);
  const activations = await front.forward(parameters, feeds);
  const fields = { step, lengths: [...lengths], squares };
  const tensors = encodeCrossing(crossings.activations, activations, lengths);
  const middle = expectKind(await link.ask({ kind: "activations", fields, tensors }), "states");
  const states = decodeCrossing(crossings.states, middle.tensors, lengths);
  const tailFeeds = tail.withMasks(withStates(batch.feeds, states), maskKey);
  const behind = await tail.run(parameters, tailFeeds);
  checkFinite(step, behind.loss, squaredNorms(behind.gradients));
  const leaving = behind.cutGradient as Float32Tensor;
  const back = encodeCrossing(crossings.statesGradient, leaving, lengths);
  const reply = await link.ask({ kind: "gradient", fields: { step }, tensors: back });
  const answer = expectGradient(reply, step);
  const cutGradient = decodeCrossing(crossings.cutGradient, answer.tensors, lengths);
  const before = await front.backward(parameters, feeds, cutGradient);
  stepDevice(round, new Map([...before, ...behind.gradients]), answer);
  return behind.loss;
}

/** Accuracy on the hold-out; its logits stay here. */
async function scoreHoldOut(
  { front, predictor, crossings }: LoadedParts,
  round: DeviceRound,
  signal: AbortSignal,
): Promise<Score | undefined> {
  const { optimizer, link, context } = round;
  const { task, holdOut } = context;
  if (holdOut.length === 0) return undefined;
  const { parameters } = optimizer;
  const shape = batchShape(task);
  const classes = task.head.labels.length;
  const logits = new Float32Array(holdOut.length * classes);
  for (let first = 0; first < holdOut.length; first += shape.batch) {
    signal.throwIfAborted();
    const { feeds, lengths, size } = makeBatch(holdOut.slice(first, first + shape.batch), shape);
    const activations = await front.evaluate(parameters, feeds);
    const tensors = encodeCrossing(crossings.activations, activations, lengths);
    const fields = { lengths: [...lengths], squares: round.squares };
    const answer = expectKind(await link.ask({ kind: "evaluate", fields, tensors }), "states");
    round.squares = {};
    const states = decodeCrossing(crossings.states, answer.tensors, lengths);
    const { data } = await predictor.run(parameters, withStates(feeds, states));
    logits.set(data.subarray(0, size * classes), first * classes);
  }
  const flops = batchCount(holdOut.length, shape.batch) * (front.forwardFlops + predictor.flops);
  return { accuracy: accuracyOf(logits, holdOut), flops };
}

function withStates(feeds: TensorBundle, states: Float32Tensor): TensorBundle {
  return new Map([...feeds, ["activations", states] as const]);
}
