// Distillation on the public set (Hinton, Vinyals, Dean 2015): a student moves towards a teacher's
// distributions. Devices and the coordinator run the same loop.
import {
  batchIndices,
  type Engine,
  type Example,
  float32,
  loadStep,
  type ModelSpec,
  makeBatch,
  type Parameters,
  type TensorBundle,
  type TrainingStep,
  type TrainResult,
  train,
} from "../../runtime/index.ts";
import { batchShape, labelsOf } from "../plan.ts";
import type { Task } from "../task.ts";

/** What a student learns from. */
export interface Lesson {
  readonly initial: Parameters;
  readonly publicSet: readonly Example[];
  /** Teacher probabilities [public examples, classes] at the task's temperature. */
  readonly teacher: Float32Array;
  /** Names the order of the batches and the dropout masks. */
  readonly key: readonly (string | number)[];
  readonly signal?: AbortSignal;
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
  const { initial, publicSet, key, signal } = lesson;
  const order = batchIndices(publicSet.length, task.training.batchSize, distillationSteps, [
    task.seed,
    ...key,
  ]);
  return train({
    step,
    initial,
    batches: lessonFeeds(task, lesson, order),
    rateAt: () => learningRate,
    maxGradientNorm: task.training.maxGradientNorm,
    maskKey: [task.seed, "dropout", ...key],
    ...(signal ? { signal } : {}),
  });
}

function* lessonFeeds(
  task: Task,
  lesson: Lesson,
  order: readonly (readonly number[])[],
): Iterable<TensorBundle> {
  const shape = batchShape(task);
  const classes = labelsOf(task).length;
  for (const indices of order) {
    const { feeds } = makeBatch(
      indices.map((i) => lesson.publicSet[i] as Example),
      shape,
    );
    const teacher = new Float32Array(shape.batch * classes);
    indices.forEach((index, row) => {
      teacher.set(lesson.teacher.subarray(index * classes, (index + 1) * classes), row * classes);
    });
    const weights = new Float32Array(shape.batch).fill(1 / indices.length, 0, indices.length);
    yield new Map([
      ...feeds,
      ["teacher", float32([shape.batch, classes], teacher)],
      ["weights", float32([shape.batch], weights)],
    ]);
  }
}
