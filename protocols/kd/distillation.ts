// Distillation on the public set (Hinton, Vinyals, Dean 2015): a student moves towards a teacher's
// distributions. Devices and the coordinator run the same loop.
import {
  batchIndices,
  type Engine,
  float32,
  loadStep,
  type ModelSpec,
  type Parameters,
  type TensorBundle,
  type TrainingStep,
  type TrainResult,
  train,
} from "../../runtime/index.ts";
import { gradientRule } from "../gradient-rule.ts";
import type { Task } from "../task.ts";
import { eachRow, type PublicRows, rowFeeds } from "./public-rows.ts";
import type { Teacher } from "./teacher.ts";

/** What a student learns from. */
export interface Lesson {
  readonly initial: Parameters;
  readonly rows: PublicRows;
  readonly teacher: Teacher;
  /** Names the order of the batches and the dropout masks. */
  readonly key: readonly (string | number)[];
  readonly signal?: AbortSignal | undefined;
}

/** Loads the step that minimises T^2 * KL(teacher || student). */
export function loadDistillation(
  engine: Engine,
  task: Task,
  spec: ModelSpec,
): Promise<TrainingStep> {
  const objective = { kind: "teacher", temperature: task.kd.temperature } as const;
  return loadStep(engine, spec, { objective });
}

/** The task's distillation steps from `initial`. */
export function distil(task: Task, step: TrainingStep, lesson: Lesson): Promise<TrainResult> {
  const { distillationSteps, learningRate } = task.kd;
  const { initial, rows, key, signal } = lesson;
  const { batchSize } = task.training;
  const order = batchIndices(rows.texts.length, batchSize, distillationSteps, [task.seed, ...key]);
  return train({
    step,
    initial,
    batches: lessonFeeds(task, lesson, order),
    rateAt: () => learningRate,
    adjust: gradientRule(task),
    maxGradientNorm: task.training.maxGradientNorm,
    maskKey: [task.seed, "dropout", ...key],
    ...(signal ? { signal } : {}),
  });
}

async function* lessonFeeds(
  task: Task,
  { rows, teacher }: Lesson,
  order: readonly (readonly number[])[],
): AsyncIterable<TensorBundle> {
  const { classes, stride } = rows;
  const graphRows = task.training.batchSize * stride;
  for (const indices of order) {
    const distributions = new Float32Array(graphRows * classes);
    distributions.set(await teacher.distributions(indices));
    yield new Map([
      ...rowFeeds(task, rows, indices),
      ["teacher", float32([graphRows, classes], distributions)],
      ["weights", float32([graphRows], rowWeights(rows, indices, graphRows))],
    ]);
  }
}

/** A mean over the real rows of a batch. */
function rowWeights(rows: PublicRows, indices: readonly number[], graphRows: number): Float32Array {
  const weights = new Float32Array(graphRows);
  let count = 0;
  eachRow(rows, indices, () => {
    count++;
  });
  eachRow(rows, indices, (_, place) => {
    weights[place] = 1 / count;
  });
  return weights;
}
