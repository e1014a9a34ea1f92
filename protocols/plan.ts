// What follows from a task and a base model at both ends: the model parts, the parameters' names and
// shapes, the batches of a round and the learning rate of a step.
import {
  type BaseModel,
  type Batch,
  type BatchShape,
  type BlockRange,
  batchIndices,
  type Example,
  type HeadSettings,
  initialParameters,
  linearRate,
  type MaskKey,
  type ModelSpec,
  makeBatch,
  makeLanguageBatch,
  type Parameters,
  parameterShapes,
} from "../runtime/index.ts";
import { isTrained } from "./aggregation/index.ts";
import type { RoundInfo } from "./protocol.ts";
import type { Task, TaskSettings } from "./task.ts";

/** The task's head in the runtime's words. */
export function headOf(task: Task): HeadSettings {
  return task.head.kind === "lm"
    ? { kind: "lm" }
    : { kind: "classification", classes: task.head.labels.length };
}

/** The labels of a classification task in the order of their classes; none for a language model. */
export function labelsOf({ head }: Task): readonly string[] {
  return head.kind === "lm" ? [] : head.labels;
}

/** What every graph of the task is built from. */
export function modelSpec(task: Task, model: BaseModel): ModelSpec {
  const { batchSize, sequenceLength } = task.training;
  const size = { batch: batchSize, sequence: sequenceLength };
  const freezesA = task.aggregation.method === "ffa";
  return { model, lora: { ...task.adapter, freezesA }, head: headOf(task), ...size };
}

/** How the task's examples become batches. */
export function batchShape(task: Task): BatchShape {
  const { batchSize, sequenceLength } = task.training;
  const { padTokenId } = task.manifest.config;
  return { batch: batchSize, sequence: sequenceLength, padTokenId };
}

/** Names and shapes of the trainable parameters of some blocks, all of them when left out. */
export function shapesOf(task: Task, blocks?: BlockRange): ReadonlyMap<string, readonly number[]> {
  return parameterShapes(task.manifest.config, task.adapter, headOf(task), blocks);
}

/** Those of some parameters that the task's method trains and sends; with `ffa` A stays as both ends made it. */
export function trainedPart<T>(
  { aggregation }: TaskSettings,
  tensors: ReadonlyMap<string, T>,
): ReadonlyMap<string, T> {
  return new Map([...tensors].filter(([name]) => isTrained(aggregation, name)));
}

/** The parameters before the first round: both ends make the same ones from the task's seed. */
export function initialOf(task: Task): Parameters {
  return initialParameters(task.manifest.config, task.adapter, headOf(task), task.seed);
}

/** What keys a device's batches and masks: the round, or the lane where a device may begin several in one round. */
export function drawOf({ asynchronous }: Task, { round, lane }: RoundInfo): number {
  return asynchronous ? lane : round;
}

/** Example indices of each step of a round; equal for `full`, `kd` and `split`, for every attempt. More or fewer steps begin alike. */
export function roundBatches(
  task: Task,
  deviceId: string,
  round: number,
  examples: number,
  steps: number = task.training.localSteps,
): number[][] {
  const key = [task.seed, "batches", round, deviceId];
  return batchIndices(examples, task.training.batchSize, steps, key);
}

/** What names a device's dropout masks of a round, equal whatever its framework; the local step counts behind it. */
export function roundMaskKey({ seed }: Task, deviceId: string, round: number): MaskKey {
  return [seed, "dropout", round, deviceId];
}

/** The batches of an order of examples, each made when it is its turn; those of a language model are labelled token by token. */
export function* batchesOf(
  task: Task,
  examples: readonly Example[],
  order: readonly (readonly number[])[],
): Iterable<Batch> {
  const shape = batchShape(task);
  for (const indices of order) {
    const chosen = indices.map((i) => examples[i] as Example);
    const batch = makeBatch(chosen, shape);
    yield task.head.kind === "lm" ? { ...batch, ...makeLanguageBatch(chosen, shape) } : batch;
  }
}

/** The learning rate of a round's n-th local step: schedules count global steps. */
export function rateOf(task: Task, info: RoundInfo): (step: number) => number {
  const { learningRate, finalRateFraction, rounds, localSteps } = task.training;
  const schedule = {
    rate: learningRate,
    finalFraction: finalRateFraction,
    totalSteps: rounds * localSteps,
  };
  return (step) => linearRate(info.globalStep + step, schedule);
}
