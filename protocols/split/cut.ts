// Where a model is cut, and what each side holds of it.
import { protocolErrors } from "../errors.ts";
import { shapesOf } from "../plan.ts";
import type { Assignment } from "../selection.ts";
import type { Task } from "../task.ts";

/** The cuts of one device's model. */
export interface Cuts {
  /** Blocks of the front. */
  readonly cutLayer: number;
  /** First block of the tail on the device, `layers` when that is the head alone; absent when the coordinator has the tail. */
  readonly tailFrom?: number;
}

/** The cuts of an assignment; throws `PROTOCOL_PAYLOAD_INVALID` when they leave nothing on one of the sides. */
export function cutsOf({ cutLayer, deviceId }: Assignment, task: Task): Cuts {
  const last = lastCut(task);
  if (cutLayer !== undefined && Number.isInteger(cutLayer) && cutLayer > 0 && cutLayer <= last) {
    return cutsAt(task, cutLayer);
  }
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `split: the assignment of ${deviceId} needs a cut layer from 1 to ${last}, got ${cutLayer}`,
  );
}

/** The cuts behind `cutLayer` blocks. */
export function cutsAt({ split, manifest }: Task, cutLayer: number): Cuts {
  return split.uShape
    ? { cutLayer, tailFrom: manifest.config.layers - split.tailLayers }
    : { cutLayer };
}

/** Names and shapes of what the device trains: the front and, in a U-shape, the tail. */
export function deviceShapes(
  task: Task,
  { cutLayer, tailFrom }: Cuts,
): ReadonlyMap<string, readonly number[]> {
  const front = shapesOf(task, { from: 0, to: cutLayer });
  if (tailFrom === undefined) return front;
  return new Map([
    ...front,
    ...shapesOf(task, { from: tailFrom, to: task.manifest.config.layers }),
  ]);
}

/** Names and shapes of what the coordinator trains: the middle, or all behind the cut. */
export function coordinatorShapes(
  task: Task,
  { cutLayer, tailFrom }: Cuts,
): ReadonlyMap<string, readonly number[]> {
  const { layers } = task.manifest.config;
  return shapesOf(task, { from: cutLayer, to: tailFrom ?? layers, head: tailFrom === undefined });
}

/** Why labels keep a task from being cut, or undefined when they may leave or need not. */
export function labelRefusal({ head, labelsMayLeave, split }: Task): string | undefined {
  if (split.uShape) return undefined;
  if (head.kind === "lm") return "the labels of a language model are the private texts themselves";
  if (labelsMayLeave) return undefined;
  return "labels would leave the device and the task does not say labelsMayLeave";
}

/** Why a task that keeps moments is not cut, or undefined when it does not. */
export function momentsRefusal({ training }: Task): string | undefined {
  if (training.moments === "fresh") return undefined;
  return "training.moments is keep, and the tail's moments live on the coordinator for one round only";
}

/** Cuts that leave at least one block on each side and something to train in front. */
export function cutLayers(task: Task): number[] {
  const { cutLayer } = task.split;
  const inner = Array.from({ length: Math.max(0, lastCut(task)) }, (_, i) => i + 1);
  const wanted = cutLayer === "auto" ? inner : inner.filter((cut) => cut === cutLayer);
  const trains = (cut: number) => shapesOf(task, { from: 0, to: cut }).size > 0;
  return wanted.filter(trains);
}

/** The coordinator keeps one block. */
function lastCut({ split, manifest }: Task): number {
  return manifest.config.layers - 1 - (split.uShape ? split.tailLayers : 0);
}
