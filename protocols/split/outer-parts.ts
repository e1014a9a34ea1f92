// A device with both ends of the model, a U-shape (Vepakomma et al. 2018, arXiv 1812.00564, section 2.2): the middle is at
// the coordinator, labels and loss never leave. Two exchanges a step.
import {
  checkFinite,
  type Float32Tensor,
  type Front,
  loadFront,
  loadStep,
  squaredNorms,
  type TensorBundle,
  type TrainingStep,
} from "../../runtime/index.ts";
import type { HoldOutScore } from "../local-training.ts";
import { batchesOf, modelSpec } from "../plan.ts";
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
import { loadTailScorer, type TailScorer } from "./tail-scorer.ts";

/** Loads the front and the tail. */
export async function openOuterParts(context: ClientContext, cuts: Cuts): Promise<DevicePart> {
  const { task, engine, model } = context;
  const spec = modelSpec(task, model);
  const from = cuts.tailFrom ?? spec.model.config.layers;
  const front = await loadFront(engine, spec, cuts.cutLayer);
  const tail = await loadStep(engine, spec, { from });
  const scorer = await loadTailScorer(engine, spec, from);
  const loaded = { front, tail, scorer };
  return {
    flops: front.flops + tail.flops,
    step: (round, work, next) => trainStep(loaded, round, work, next),
    score: (round, signal) => scoreHoldOut(loaded, round, signal),
    close: async () => {
      await front.close();
      await tail.close();
      await scorer.close();
    },
  };
}

interface LoadedParts {
  readonly front: Front;
  readonly tail: TrainingStep;
  readonly scorer: TailScorer;
}

async function trainStep(
  { front, tail }: LoadedParts,
  round: DeviceRound,
  work: StepWork,
  next: StepWork | undefined,
): Promise<number> {
  const { optimizer, link, wire, squares } = round;
  const { crossings } = wire;
  const { step, texts, batch, maskKey } = work;
  const { lengths } = batch;
  const { parameters, feeds, activations } = await passOf(front, round, work);
  const sent = wire.activations(activations, { lengths, texts });
  const fields = { step, ...sent.fields, squares };
  const { tensors } = sent;
  const middle = expectKind(await link.ask({ kind: "activations", fields, tensors }), "states");
  const states = decodeCrossing(crossings.states, middle.tensors, lengths);
  const tailFeeds = tail.withMasks(withStates(batch.feeds, states), maskKey);
  const behind = await tail.run(optimizer.parameters, tailFeeds);
  checkFinite(step, behind.loss, squaredNorms(behind.gradients));
  const leaving = behind.cutGradient as Float32Tensor;
  const back = wire.statesGradients.encode(leaving, { lengths, texts });
  const asked = link.ask({ kind: "gradient", fields: { step }, tensors: back });
  const answer = expectGradient(await whileAsked(asked, { front, round, next }), step);
  const cutGradient = decodeCrossing(crossings.cutGradient, answer.tensors, lengths);
  const before = await front.backward(parameters, feeds, cutGradient);
  const found = new Map([...before, ...behind.gradients]);
  stepDevice(round, { found, from: new Map([...optimizer.parameters, ...parameters]) }, answer);
  return behind.loss;
}

/** The worth of the cut model on the hold-out; what the tail makes of it stays here. */
async function scoreHoldOut(
  { front, scorer }: LoadedParts,
  round: DeviceRound,
  signal: AbortSignal,
): Promise<HoldOutScore | undefined> {
  const { optimizer, link, wire, context } = round;
  const { task, holdOut } = context;
  if (holdOut.length === 0) return undefined;
  const { parameters } = optimizer;
  const { batchSize } = task.training;
  const places = Array.from(holdOut, (_, i) => i);
  const order = chunksOf(places, batchSize);
  const running = scorer.begin();
  let first = 0;
  for (const batch of batchesOf(task, holdOut, order)) {
    signal.throwIfAborted();
    const activations = await front.evaluate(parameters, batch.feeds);
    const sent = wire.activations(activations, {
      lengths: batch.lengths,
      texts: numbersOf(context, first, batch.size),
    });
    const fields = { ...sent.fields, squares: round.squares };
    const { tensors } = sent;
    const answer = expectKind(await link.ask({ kind: "evaluate", fields, tensors }), "states");
    round.squares = {};
    const states = decodeCrossing(wire.crossings.states, answer.tensors, batch.lengths);
    const texts = holdOut.slice(first, first + batchSize);
    await running.take(parameters, withStates(batch.feeds, states), texts);
    first += batchSize;
  }
  return { score: running.score(), flops: order.length * (front.forwardFlops + scorer.flops) };
}

function chunksOf(places: readonly number[], size: number): number[][] {
  const count = Math.ceil(places.length / size);
  return Array.from({ length: count }, (_, i) => places.slice(i * size, (i + 1) * size));
}

function withStates(feeds: TensorBundle, states: Float32Tensor): TensorBundle {
  return new Map([...feeds, ["activations", states] as const]);
}
