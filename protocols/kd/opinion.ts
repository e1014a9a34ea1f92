// What a model makes of the round's public texts: ranked for the wire as its batches come, or at hand as logits.
import type { Predictor } from "../../runtime/index.ts";
import type { Task } from "../task.ts";
import { eachRow, type Prediction, type PublicRows, predictRows, rowFeeds } from "./public-rows.ts";
import { type RankedLogits, type RankedRow, rankRow } from "./sparse-logits.ts";
import { mostKept } from "./top-k.ts";

/** The largest logits of every row, so many as the task may keep. */
export async function rankedOpinion(
  task: Task,
  rows: PublicRows,
  prediction: Prediction,
): Promise<RankedLogits> {
  const { classes } = rows;
  const { temperature } = task.kd;
  const most = mostKept(task, classes);
  const ranked: RankedRow[] = [];
  for await (const { indices, logits } of predictRows(task, rows, prediction)) {
    eachRow(rows, indices, (row, place) => {
      const own = logits.subarray(place * classes, (place + 1) * classes);
      ranked[row] = rankRow(own, most, temperature);
    });
  }
  return { classes, temperature, rows: ranked };
}

/** A model's logits of any of the texts. */
export interface Logits {
  /** As a batch of these texts has them, [batch * stride, classes]. */
  run(indices: readonly number[]): Promise<Float32Array>;
  /** FLOPs that they took so far. */
  flops(): number;
}

/**
 * Whether a student's own logits are needed beside the voices: they are the form of what was dropped. By the task alone, so
 * that an estimate is what a round takes.
 */
export function dropsLogits(task: Task, classes: number): boolean {
  return task.kd.topK === "adaptive" || mostKept(task, classes) < classes;
}

/** Whether the logits of so many graph rows are kept; more are computed again when they are needed. */
export function isKept(graphRows: number, classes: number, mostBytes = mostKeptBytes): boolean {
  return graphRows * classes * Float32Array.BYTES_PER_ELEMENT <= mostBytes;
}

const mostKeptBytes = 2 ** 25;

/** Logits of a model that stays as it is while they are asked for. */
export async function logitsOf(
  task: Task,
  rows: PublicRows,
  prediction: Prediction & {
    readonly predictor: Pick<Predictor, "run" | "flops">;
    /** Most memory that the logits of all texts may take. */
    readonly mostBytes?: number;
  },
): Promise<Logits> {
  const { predictor, parameters, signal, mostBytes } = prediction;
  const { classes, stride, texts } = rows;
  let flops = 0;
  if (!isKept(texts.length * stride, classes, mostBytes)) {
    return {
      flops: () => flops,
      run: async (indices) => {
        signal?.throwIfAborted();
        flops += predictor.flops;
        return (await predictor.run(parameters, rowFeeds(task, rows, indices))).data;
      },
    };
  }
  const span = stride * classes;
  const kept = new Float32Array(texts.length * span);
  for await (const { indices, logits } of predictRows(task, rows, prediction)) {
    flops += predictor.flops;
    kept.set(logits.subarray(0, indices.length * span), (indices[0] as number) * span);
  }
  return {
    flops: () => flops,
    run: async (indices) => {
      const batch = new Float32Array(indices.length * span);
      indices.forEach((index, i) => {
        batch.set(kept.subarray(index * span, (index + 1) * span), i * span);
      });
      return batch;
    },
  };
}
