// Device end of `split` (Split-FedLLM): the front of the model, forward and backward, with the tail
// across the wire.
import {
  adamW,
  type Batch,
  clipScale,
  type Example,
  type Front,
  float32,
  loadFront,
  makeBatch,
  type Optimizer,
  scoreClassification,
  squaredNorms,
} from "../../runtime/index.ts";
import { encodeAll, encodeTensor } from "../encoding/index.ts";
import { protocolErrors } from "../errors.ts";
import { decodeGlobal } from "../global-model.ts";
import { batchCount, reportOf } from "../local-training.ts";
import { decodeOne, difference, subset } from "../payload.ts";
import { batchShape, initialOf, modelSpec, rateOf, roundBatches, shapesOf } from "../plan.ts";
import type { ClientContext, ClientSide, RoundLink } from "../protocol.ts";
import { cutShape, outOfTurn } from "./cut.ts";
import type { SplitDown, SplitUp } from "./messages.ts";

/** Loads the front of `assignment.cutLayer` blocks and trains it step by step with the coordinator. */
export async function createSplitClient(
  context: ClientContext,
): Promise<ClientSide<SplitDown, SplitUp>> {
  const { task, engine, model, deviceId, assignment, train: examples } = context;
  const { cutLayer } = assignment;
  if (cutLayer === undefined) {
    throw protocolErrors.error(
      "PROTOCOL_PAYLOAD_INVALID",
      "a split assignment must name its cut layer",
    );
  }
  const initial = subset(initialOf(task), shapesOf(task, { from: 0, to: cutLayer }).keys());
  const front = await loadFront(engine, modelSpec(task, model), cutLayer);
  return {
    runRound: async (info, start, link, signal) => {
      if (start.kind !== "front") throw unexpected(start);
      const theta = decodeGlobal(start, initial);
      const optimizer = adamW(theta, { weightDecay: task.training.weightDecay });
      const rateAt = rateOf(task, info);
      const session = { context, front, optimizer, link, squares: {} };
      let totalLoss = 0;
      const batches = roundBatches(task, deviceId, info.round, examples.length);
      for (const [step, indices] of batches.entries()) {
        signal.throwIfAborted();
        const batch = makeBatch(
          indices.map((i) => examples[i] as Example),
          batchShape(task),
        );
        totalLoss += await trainStep(session, batch, { step, rate: rateAt(step) });
      }
      signal.throwIfAborted();
      const score = await scoreHoldOut(session, signal);
      const tensors = encodeAll(difference(optimizer.parameters, theta), task.full.encoding);
      const fields = { examples: examples.length, steps: batches.length, squares: session.squares };
      await link.send({ kind: "update", fields, tensors });
      const flops = batches.length * front.flops;
      return reportOf(
        context,
        { steps: batches.length, meanLoss: totalLoss / batches.length, flops },
        score,
      );
    },
    close: () => front.close(),
  };
}

/** What the steps of one round share. */
interface SplitSession {
  readonly context: ClientContext;
  readonly front: Front;
  readonly optimizer: Optimizer;
  readonly link: RoundLink<SplitDown, SplitUp>;
  /** The front's squared norms that the coordinator has not seen: its tail steps once it has. */
  squares: Readonly<Record<string, number>>;
}

/** Forward, exchange, backward, step; gives the loss. */
async function trainStep(
  session: SplitSession,
  batch: Batch,
  { step, rate }: { readonly step: number; readonly rate: number },
): Promise<number> {
  const { context, front, optimizer, link } = session;
  const activations = await encodeActivations(session, batch);
  const fields = { step, lengths: batch.lengths, labels: batch.labels, squares: session.squares };
  const answer = await link.ask({
    kind: "activations",
    fields: { ...fields, lengths: [...batch.lengths], labels: [...batch.labels] },
    tensors: activations,
  });
  if (answer.kind !== "gradient" || answer.fields.step !== step) throw unexpected(answer);
  const [rows, sequence, hidden] = cutShape(context.task);
  const cut = decodeOne(answer.tensors, "gradient", [rows, sequence, hidden]);
  const flat = float32([rows * sequence, hidden], cut.data);
  const gradients = await front.backward(optimizer.parameters, batch.feeds, flat);
  const own = squaredNorms(gradients);
  const all = new Map([...own, ...Object.entries(answer.fields.squares)]);
  optimizer.step(gradients, { rate, scale: clipScale(all, context.task.training.maxGradientNorm) });
  session.squares = Object.fromEntries(own);
  return answer.fields.loss;
}

/** Accuracy on the hold-out: front here, tail there. */
async function scoreHoldOut(
  session: SplitSession,
  signal: AbortSignal,
): Promise<{ accuracy: number; flops: number } | undefined> {
  const { task, holdOut } = session.context;
  if (holdOut.length === 0) return undefined;
  const shape = batchShape(task);
  const classes = task.head.labels.length;
  const logits = new Float32Array(holdOut.length * classes);
  for (let first = 0; first < holdOut.length; first += shape.batch) {
    signal.throwIfAborted();
    const batch = makeBatch(holdOut.slice(first, first + shape.batch), shape);
    const tensors = await encodeActivations(session, batch);
    const fields = { lengths: [...batch.lengths], squares: session.squares };
    const answer = await session.link.ask({ kind: "evaluate", fields, tensors });
    if (answer.kind !== "logits") throw unexpected(answer);
    session.squares = {};
    const part = decodeOne(answer.tensors, "logits", [shape.batch, classes]);
    logits.set(part.data.subarray(0, batch.size * classes), first * classes);
  }
  const { accuracy } = scoreClassification(
    logits,
    holdOut.map(({ label }) => label),
  );
  return { accuracy, flops: session.front.forwardFlops * batchCount(holdOut.length, shape.batch) };
}

async function encodeActivations({ context, front, optimizer }: SplitSession, batch: Batch) {
  const flat = await front.forward(optimizer.parameters, batch.feeds);
  const shaped = float32(cutShape(context.task), flat.data);
  return new Map([
    ["activations", encodeTensor(shaped, context.task.split.activations, { name: "activations" })],
  ]);
}

function unexpected(message: SplitDown): Error {
  return outOfTurn(`"${message.kind}" is not the answer expected now`);
}
