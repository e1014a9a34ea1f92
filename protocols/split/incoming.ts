// The coordinator's end of what a device sends up.
import type { Float32Tensor } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import { type Crossing, type Crossings, decodeCrossing } from "./crossing.ts";
import { type GradientSender, gradientSender } from "./gradient-sender.ts";
import type { EndMemory } from "./memories.ts";
import type { Up } from "./messages.ts";
import { type ArrivedRows, meetMemory, receiveRows } from "./reuse.ts";
import { checkLengths } from "./rows.ts";

/** Both directions of a lane. */
export interface LaneWire {
  readonly crossings: Crossings;
  /** The batch of a message; throws before anything is remembered of it. */
  receive(up: Up<"activations" | "evaluate">): ArrivedRows;
  readonly cutGradients: GradientSender;
}

/** The wire of a lane that starts with this memory. */
export function laneWire(crossings: Crossings, memory: EndMemory): LaneWire {
  let isFirst = true;
  const needsTexts = memory.sent !== undefined || memory.owed !== undefined;
  return {
    crossings,
    cutGradients: gradientSender(crossings.cutGradient, memory.owed),
    receive: (up) => {
      const { lengths, texts, reuse } = up.fields;
      const { layout } = crossings.activations;
      checkLengths(lengths, layout);
      const isComplete = texts?.length === lengths.length;
      if (needsTexts !== isComplete || (memory.sent !== undefined) !== (reuse !== undefined)) {
        throw invalid(`the task asks for ${needsTexts ? "" : "no "}numbers of texts`);
      }
      if (!memory.sent || !reuse || !texts) return plain(crossings.activations, up);
      if (reuse.hidden !== layout.hidden) throw invalid(`rows are ${layout.hidden} wide`);
      meetMemory(memory.sent, reuse.memory, isFirst);
      const { modes } = reuse;
      const arrived = receiveRows(memory.sent, layout, {
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
