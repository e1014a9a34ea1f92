// The device's end of what it sends up.
import type { Float32Tensor } from "../../runtime/index.ts";
import type { Task } from "../task.ts";
import { type Crossings, encodeCrossing } from "./crossing.ts";
import { type GradientSender, gradientSender } from "./gradient-sender.ts";
import type { EndMemory } from "./memories.ts";
import type { Up } from "./messages.ts";
import { sendRows } from "./row-sender.ts";
import { adaptiveThreshold, fixedThreshold, type Threshold } from "./threshold.ts";

/** What a device sends up. */
export interface DeviceWire {
  readonly crossings: Crossings;
  /** Starts a lane whose coordinator remembers rows by this digest: other rows than these are forgotten. */
  meet(memory: string): void;
  /** The part of a message that carries a batch's activations. */
  activations(padded: Float32Tensor, batch: NumberedTexts): SentActivations;
  /** Gradients of a U-shape. */
  readonly statesGradients: GradientSender;
  /** Tells the loss of a step. */
  note(loss: number): void;
  /** What the device remembers by now. */
  readonly memory: EndMemory;
}

/** The texts of a batch. */
export interface NumberedTexts {
  readonly lengths: readonly number[];
  /** Number of each text: first the training texts, then those of the hold-out. */
  readonly texts: readonly number[];
}

interface SentActivations extends Pick<Up<"activations">, "tensors"> {
  readonly fields: Pick<Up<"activations">["fields"], "lengths" | "texts" | "reuse">;
}

/** The wire of a device with `texts` training texts that starts with this memory. */
export function deviceWire(
  task: Task,
  crossings: Crossings,
  { texts, ...remembered }: EndMemory & { readonly texts: number },
): DeviceWire {
  const { reuse, errorFeedback } = task.split;
  const { layout, encoding, outliers } = crossings.activations;
  const { sent: memory, owed, fields: former } = remembered;
  const threshold = thresholdOf(task, texts, former);
  return {
    crossings,
    statesGradients: gradientSender(crossings.statesGradient, owed),
    get memory() {
      return { sent: memory, owed, fields: threshold.state };
    },
    meet: (digest) => {
      if (memory && memory.digest !== digest) memory.clear();
    },
    note: (loss) => threshold.note(loss),
    activations: (padded, batch) => {
      const lengths = [...batch.lengths];
      const numbers = errorFeedback || memory ? { texts: [...batch.texts] } : {};
      if (!memory) {
        const tensors = encodeCrossing(crossings.activations, padded, lengths);
        return { fields: { lengths, ...numbers }, tensors };
      }
      const known = memory.digest;
      const { changes } = reuse;
      const options = { memory, layout, encoding, outliers, changes, threshold: threshold.value };
      const { modes, tensors } = sendRows(options, padded, batch);
      const row = { memory: known, modes: [...modes], hidden: layout.hidden };
      return { fields: { lengths, ...numbers, reuse: row }, tensors };
    },
  };
}

function thresholdOf(
  { split, training }: Task,
  texts: number,
  former: EndMemory["fields"],
): Threshold {
  const { threshold } = split.reuse;
  if (threshold === "off") return fixedThreshold(0);
  if (threshold !== "adaptive") return fixedThreshold(threshold);
  return adaptiveThreshold(Math.max(1, Math.ceil(texts / training.batchSize)), former);
}
