// What both sides of the cut agree on.
import { protocolErrors } from "../errors.ts";
import { shapesOf } from "../plan.ts";
import type { Assignment } from "../selection.ts";
import type { Task } from "../task.ts";

/** Shape of activations and their gradients at the cut: [batch, seq, hidden]. */
export function cutShape({ training, manifest }: Task): [number, number, number] {
  return [training.batchSize, training.sequenceLength, manifest.config.hiddenSize];
}

/** The cut layer of an assignment; throws `PROTOCOL_PAYLOAD_INVALID` when it leaves nothing on one of the sides. */
export function cutLayerOf({ cutLayer, deviceId }: Assignment, { manifest }: Task): number {
  const { layers } = manifest.config;
  if (cutLayer !== undefined && Number.isInteger(cutLayer) && cutLayer > 0 && cutLayer < layers) {
    return cutLayer;
  }
  const expected = `a cut layer from 1 to ${layers - 1}`;
  throw protocolErrors.error(
    "PROTOCOL_PAYLOAD_INVALID",
    `split: the assignment of ${deviceId} needs ${expected}, got ${cutLayer}`,
  );
}

/** Why labels keep a task from being cut, or undefined when they may leave. */
export function labelRefusal({ head, labelsMayLeave }: Task): string | undefined {
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
  const inner = Array.from({ length: task.manifest.config.layers - 1 }, (_, i) => i + 1);
  const wanted = cutLayer === "auto" ? inner : inner.filter((cut) => cut === cutLayer);
  const trains = (cut: number) => shapesOf(task, { from: 0, to: cut }).size > 0;
  return wanted.filter(trains);
}
