// Device end of `split` (Split-FedLLM): the front of the model, forward and backward, with the tail
// across the wire.
import {
  type AdjustGradients,
  adamW,
  type Batch,
  clipScale,
  type Float32Tensor,
  type Front,
  float32,
  loadFront,
  makeBatch,
  type Optimizer,
  scoreClassification,
  squaredNorms,
  type TensorBundle,
} from "../../runtime/index.ts";
import { readSection, stageSections } from "../client-memory.ts";
import type { EncodedTensor } from "../encoding/encoded.ts";
import { encodeTensor } from "../encoding/index.ts";
import { protocolErrors } from "../errors.ts";
import { type EncodedGlobal, receiveGlobal, rememberGlobal } from "../global-model.ts";
import { gradientRule } from "../gradient-rule.ts";
import { batchCount, type HoldOutScore, reportOf } from "../local-training.ts";
import { decodeOnly, difference, outOfTurn, subset } from "../payload.ts";
import {
  batchesOf,
  batchShape,
  initialOf,
  labelsOf,
  modelSpec,
  rateOf,
  roundBatches,
  roundMaskKey,
  shapesOf,
} from "../plan.ts";
import type { ClientContext, ClientSide, RoundLink } from "../protocol.ts";
import type { Task } from "../task.ts";
import { encodeChange, rememberResidual } from "../update-encoding.ts";
import { cutLayerOf, cutShape, labelRefusal } from "./cut.ts";
import type { SplitDown, SplitUp } from "./messages.ts";

/**
 * Loads the front of `assignment.cutLayer` blocks and trains it step by step with the coordinator.
 * Throws `PROTOCOL_LABELS_WOULD_LEAVE` when the task does not allow that.
 */
export async function createSplitClient(
  context: ClientContext,
): Promise<ClientSide<SplitDown, SplitUp>> {
  const { task, engine, model, deviceId, assignment, state, train: examples } = context;
  const cutLayer = cutLayerOf(assignment, task);
  const refusal = labelRefusal(task);
  if (refusal) throw protocolErrors.error("PROTOCOL_LABELS_WOULD_LEAVE", `split: ${refusal}`);
  context.log("split: the labels of the training texts go to the coordinator, the texts stay here");
  const initial = subset(initialOf(task), shapesOf(task, { from: 0, to: cutLayer }).keys());
  const front = await loadFront(engine, modelSpec(task, model), cutLayer);
  return {
    runRound: async (info, start, link, signal) => {
      if (start.kind !== "front") throw unexpected(start);
      const theta = await receiveGlobal(start, { state, initial, catchUp: () => askFront(link) });
      const optimizer = adamW(theta, { weightDecay: task.training.weightDecay });
      const adjust = gradientRule(task, theta);
      const session: SplitSession = { context, front, optimizer, adjust, link, squares: {} };
      const rateAt = rateOf(task, info);
      const maskKey = roundMaskKey(task, deviceId, info.round);
      const order = roundBatches(task, deviceId, info.round, examples.length);
      let steps = 0;
      let totalLoss = 0;
      for (const batch of batchesOf(task, examples, order)) {
        signal.throwIfAborted();
        const masked = { ...batch, feeds: front.withMasks(batch.feeds, [...maskKey, steps]) };
        totalLoss += await trainStep(session, masked, { step: steps, rate: rateAt(steps) });
        steps += 1;
      }
      const score = await scoreHoldOut(session, signal);
      signal.throwIfAborted();
      const fields = { examples: examples.length, steps, squares: session.squares };
      const change = difference(optimizer.parameters, theta);
      const update = encodeChange(task, change, await readSection(state, "residual"));
      await stageSections(state, {
        ...rememberGlobal(task, theta, info.round),
        ...rememberResidual(update),
      });
      await link.send({ kind: "update", fields, tensors: update.encoded });
      const trained = { steps, meanLoss: totalLoss / steps, flops: steps * front.flops };
      return reportOf(context, trained, score);
    },
    close: () => front.close(),
  };
}

/** The front's whole parameters. */
async function askFront(link: RoundLink<SplitDown, SplitUp>): Promise<EncodedGlobal> {
  const answer = await link.ask({ kind: "catchUp", fields: {}, tensors: new Map() });
  if (answer.kind !== "front") throw unexpected(answer);
  return answer;
}

/** What the steps of one round share. */
interface SplitSession {
  readonly context: ClientContext;
  readonly front: Front;
  readonly optimizer: Optimizer;
  readonly adjust: AdjustGradients;
  readonly link: RoundLink<SplitDown, SplitUp>;
  /** The front's squared norms that the coordinator has not seen: its tail steps once it has. */
  squares: Readonly<Record<string, number>>;
}

/** A batch whose feeds hold the step's dropout masks as well. */
type MaskedBatch = Pick<Batch, "lengths" | "labels"> & { readonly feeds: TensorBundle };

/** Forward, exchange, backward, step; gives the loss. */
async function trainStep(
  session: SplitSession,
  batch: MaskedBatch,
  { step, rate }: { readonly step: number; readonly rate: number },
): Promise<number> {
  const { context, front, optimizer, link } = session;
  const { task } = context;
  const activations = await front.forward(optimizer.parameters, batch.feeds);
  const tensors = encodeActivations(task, activations);
  const texts = { lengths: [...batch.lengths], labels: [...batch.labels] };
  const fields = { step, ...texts, squares: session.squares };
  const answer = await link.ask({ kind: "activations", fields, tensors });
  if (answer.kind !== "gradient" || answer.fields.step !== step) throw unexpected(answer);
  const [rows, sequence, hidden] = cutShape(task);
  const { data } = decodeOnly(answer.tensors, "gradient", [rows, sequence, hidden]);
  const cutGradient = float32([rows * sequence, hidden], data);
  const found = await front.backward(optimizer.parameters, batch.feeds, cutGradient);
  const gradients = session.adjust(found, optimizer.parameters);
  const own = squaredNorms(gradients);
  const all = new Map([...Object.entries(answer.fields.squares), ...own]);
  optimizer.step(gradients, { rate, scale: clipScale(all, task.training.maxGradientNorm) });
  session.squares = Object.fromEntries(own);
  return answer.fields.loss;
}

/** Accuracy on the hold-out: front here, tail there. */
async function scoreHoldOut(
  session: SplitSession,
  signal: AbortSignal,
): Promise<HoldOutScore | undefined> {
  const { context, front, optimizer, link } = session;
  const { task, holdOut } = context;
  if (holdOut.length === 0) return undefined;
  const shape = batchShape(task);
  const classes = labelsOf(task).length;
  const logits = new Float32Array(holdOut.length * classes);
  for (let first = 0; first < holdOut.length; first += shape.batch) {
    signal.throwIfAborted();
    const batch = makeBatch(holdOut.slice(first, first + shape.batch), shape);
    const activations = await front.evaluate(optimizer.parameters, batch.feeds);
    const tensors = encodeActivations(task, activations);
    const fields = { lengths: [...batch.lengths], squares: session.squares };
    const answer = await link.ask({ kind: "evaluate", fields, tensors });
    if (answer.kind !== "logits") throw unexpected(answer);
    session.squares = {};
    const { data } = decodeOnly(answer.tensors, "logits", [shape.batch, classes]);
    logits.set(data.subarray(0, batch.size * classes), first * classes);
  }
  const flops = batchCount(holdOut.length, shape.batch) * front.forwardFlops;
  const labels = holdOut.map(({ label }) => label);
  return { score: { accuracy: scoreClassification(logits, labels).accuracy }, flops };
}

function encodeActivations(
  task: Task,
  { data }: Float32Tensor,
): ReadonlyMap<string, EncodedTensor> {
  const activations = float32(cutShape(task), data);
  const name = "activations";
  return new Map([[name, encodeTensor(activations, task.split.activations, { name })]]);
}

function unexpected(message: SplitDown): Error {
  return outOfTurn(`split: "${message.kind}" is not the answer expected now`);
}
