// What a student learns from: distributions on the round's public texts, mixed of the voices when a batch asks for them,
// so that those of all positions of a vocabulary are never in memory at once.
import type { Task } from "../task.ts";
import { classSharesOf, distributionOf, mix, type Standing, softmaxInto } from "./aggregation.ts";
import type { Logits } from "./opinion.ts";
import { eachRow, type PublicRows } from "./public-rows.ts";
import type { SparseLogits } from "./sparse-logits.ts";

/** Logits on every row of the round's texts, and how much they count. */
export interface Voice {
  readonly weight: number;
  readonly logits: SparseLogits;
}

/** The student's own logits before it learns: the form of what voices dropped and, with a weight, a voice. */
export interface OwnVoice {
  /** 0 for a student that is not asked. */
  readonly weight: number;
  /** Needed with a weight, and where voices dropped classes. */
  readonly logits?: Logits | undefined;
}

/** Distributions of a batch of texts. */
export interface Teacher {
  /** Probabilities at the task's temperature [indices * stride, classes]; rows of padding are zeros. */
  distributions(indices: readonly number[]): Promise<Float32Array>;
}

/** Mixes voices in their order behind the student's own, as the task's aggregation says. */
export async function createTeacher(
  task: Task,
  rows: PublicRows,
  { voices, own }: { readonly voices: readonly Voice[]; readonly own: OwnVoice },
): Promise<Teacher> {
  const { aggregation, temperature } = task.kd;
  const { classes, stride } = rows;
  const speaks = own.weight > 0;
  const standings: Standing[] = voices.map(({ weight, logits }) =>
    aggregation === "perClass"
      ? { weight, classShares: classSharesOf(logits, temperature) }
      : { weight },
  );
  if (speaks && own.logits) {
    const isPerClass = aggregation === "perClass";
    const classShares = isPerClass ? await ownShares(task, rows, own.logits) : undefined;
    standings.unshift({ weight: own.weight, classShares });
  }
  const shape = new Float64Array(classes);
  const heard = voices.map(() => new Float64Array(classes));
  const mixed = new Float64Array(classes);
  return {
    distributions: async (indices) => {
      const logits = await own.logits?.run(indices);
      const result = new Float32Array(indices.length * stride * classes);
      eachRow(rows, indices, (row, place) => {
        const from = place * classes;
        if (logits) softmaxInto(logits.subarray(from, from + classes), temperature, shape);
        voices.forEach((voice, i) => {
          const into = heard[i] as Float64Array;
          distributionOf({ logits: voice.logits, row, temperature }, into, logits && shape);
        });
        mix(aggregation, standings, speaks ? [shape, ...heard] : heard, mixed);
        result.set(mixed, from);
      });
      return result;
    },
  };
}

/** Share of each class in the student's own opinion on all texts. */
async function ownShares(task: Task, rows: PublicRows, own: Logits): Promise<Float64Array> {
  const { classes, texts } = rows;
  const { batchSize } = task.training;
  const sum = new Float64Array(classes);
  const one = new Float64Array(classes);
  for (let start = 0; start < texts.length; start += batchSize) {
    const length = Math.min(batchSize, texts.length - start);
    const indices = Array.from({ length }, (_, i) => start + i);
    const logits = await own.run(indices);
    eachRow(rows, indices, (_, place) => {
      const from = place * classes;
      softmaxInto(logits.subarray(from, from + classes), task.kd.temperature, one);
      for (let c = 0; c < classes; c++) sum[c] = (sum[c] as number) + (one[c] as number);
    });
  }
  return sum.map((share) => share / rows.rows);
}
