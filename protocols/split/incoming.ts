// The coordinator's end of what a device sends up, and what it remembers of it from round to round.
import type { Float32Tensor } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Task } from "../task.ts";
import { type Crossing, type Crossings, decodeCrossing } from "./crossing.ts";
import { type GradientSender, gradientSender, owedRows } from "./gradient-sender.ts";
import type { Up } from "./messages.ts";
import { type ArrivedRows, meetMemory, type RowMemory, receiveRows, rowMemory } from "./reuse.ts";
import type { RowStore } from "./row-store.ts";
import { checkLengths } from "./rows.ts";

/** What the coordinator remembers of a device. */
export interface DeviceMemory {
  /** Rows that the device need not send again; absent without reuse. */
  readonly rows: RowMemory | undefined;
  /** What encodings have lost of its gradients; absent without error feedback. */
  readonly owed: RowStore | undefined;
}

/** A memory of nothing. */
export function emptyMemory(task: Task, { activations, cutGradient }: Crossings): DeviceMemory {
  const { reuse, cacheBytes } = task.split;
  return {
    rows: reuse.threshold === "off" ? undefined : rowMemory(cacheBytes, activations.layout),
    owed: owedRows(task, cutGradient),
  };
}

/** Both directions of a lane. */
export interface LaneWire {
  readonly crossings: Crossings;
  /** The batch of a message; throws before anything is remembered of it. */
  receive(up: Up<"activations" | "evaluate">): ArrivedRows;
  readonly cutGradients: GradientSender;
}

/** The wire of a lane that starts with this memory. */
export function laneWire(crossings: Crossings, memory: DeviceMemory): LaneWire {
  let isFirst = true;
  const needsTexts = memory.rows !== undefined || memory.owed !== undefined;
  return {
    crossings,
    cutGradients: gradientSender(crossings.cutGradient, memory.owed),
    receive: (up) => {
      const { lengths, texts, reuse } = up.fields;
      const { layout } = crossings.activations;
      checkLengths(lengths, layout);
      const isComplete = texts?.length === lengths.length;
      if (needsTexts !== isComplete || (memory.rows !== undefined) !== (reuse !== undefined)) {
        throw invalid(`the task asks for ${needsTexts ? "" : "no "}numbers of texts`);
      }
      if (!memory.rows || !reuse || !texts) return plain(crossings.activations, up);
      if (reuse.hidden !== layout.hidden) throw invalid(`rows are ${layout.hidden} wide`);
      meetMemory(memory.rows, reuse.memory, isFirst);
      const { modes } = reuse;
      const arrived = receiveRows(memory.rows, layout, {
        lengths,
        texts,
        modes,
        tensors: up.tensors,
      });
      return {
        ...arrived,
        keep: () => {
          isFirst = false;
          arrived.keep();
        },
      };
    },
  };
}

function plain(
  crossing: Crossing,
  { fields, tensors }: Up<"activations" | "evaluate">,
): ArrivedRows {
  const activations: Float32Tensor = decodeCrossing(crossing, tensors, fields.lengths);
  return { activations, keep: () => {} };
}

function invalid(what: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `split: ${what}`);
}
