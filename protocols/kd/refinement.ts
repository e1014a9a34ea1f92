// Distillation after the round's mean: from the devices' logits and the global model's own into a teacher,
// and from there towards it, but never away from it.
import { float32, type Parameters } from "../../runtime/index.ts";
import { difference } from "../payload.ts";
import type { KnowledgeReport } from "../protocol.ts";
import { softmax } from "./logits.ts";

/** One opinion on the public set: logits [public examples, classes] and how much they count. */
export type Voice = Pick<KnowledgeReport, "weight" | "logits">;

/** What turns logits into distributions. */
export interface Scale {
  readonly classes: number;
  readonly temperature: number;
}

/**
 * Weighted mean of distributions [public examples, classes]. The global model's own logits are among the
 * voices and count as much as the parameter contributors behind it, so that one small board cannot pull it away.
 */
export function teacherOf(voices: readonly Voice[], { classes, temperature }: Scale): Float32Array {
  const total = voices.reduce((sum, { weight }) => sum + weight, 0);
  const mean = new Float64Array(voices[0]?.logits.length ?? 0);
  for (const { weight, logits } of voices) {
    softmax(logits, classes, temperature).forEach((probability, i) => {
      mean[i] = (mean[i] as number) + (weight / total) * probability;
    });
  }
  return Float32Array.from(mean);
}

/** Cross-entropy of a student's logits against a teacher's distributions, summed over the examples; least when they agree. */
export function distanceTo(
  teacher: Float32Array,
  student: Float32Array,
  { classes, temperature }: Scale,
): number {
  const distribution = softmax(student, classes, temperature);
  let sum = 0;
  for (let i = 0; i < teacher.length; i++) {
    // A probability that float32 rounds to zero would make every other difference vanish in infinity.
    sum -= (teacher[i] as number) * Math.log(Math.max(distribution[i] as number, smallest));
  }
  return sum;
}

/** Where a student starts, where training would take it, and what tells which is nearer to the teacher. */
export interface Approach {
  readonly start: Parameters;
  readonly aim: Parameters;
  /** Distance of `start` to the teacher. */
  readonly startDistance: number;
  readonly distanceOf: (parameters: Parameters) => Promise<number>;
}

/**
 * The farthest of `aim`, half, a quarter ... of the way to it that is nearer to the teacher than `start`; undefined when
 * none is. AdamW's steps are as long as the learning rate however near the teacher is: without this check, a
 * teacher that is almost the student's own opinion moves it by noise, and away from the teacher.
 */
export async function approach({
  start,
  aim,
  startDistance,
  distanceOf,
}: Approach): Promise<Parameters | undefined> {
  const way = difference(aim, start);
  for (let share = 1; share >= smallestShare; share /= 2) {
    const candidate = share === 1 ? aim : partOfWay(start, way, share);
    if ((await distanceOf(candidate)) < startDistance) return candidate;
  }
  return undefined;
}

const smallest = 1e-30;
const smallestShare = 1 / 64;

function partOfWay(start: Parameters, way: Parameters, share: number): Parameters {
  return new Map(
    [...start].map(([name, { shape, data }]) => {
      const step = way.get(name)?.data ?? new Float32Array(data.length);
      const moved = data.map((value, i) => value + share * (step[i] as number));
      return [name, float32(shape, moved)];
    }),
  );
}
