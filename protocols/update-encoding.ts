// How changes of theta are narrowed, up and down alike: at the task's encoding, with what it loses added to the next one
// (error feedback, `encoding/residual.ts`).
import type { Parameters } from "../runtime/index.ts";
import type { SectionChanges } from "./client-memory.ts";
import type { EncodedTensor, EncodingName } from "./encoding/encoded.ts";
import { decodeAll, encodeAll } from "./encoding/index.ts";
import { encodeWithResidual } from "./encoding/residual.ts";
import type { TaskSettings } from "./task.ts";

/** How a task narrows changes of its adapters. */
export type ChangeEncoding = Pick<TaskSettings["full"], "encoding" | "keepFraction">;

/** A change as it travels, what the other end decodes, and what is left to be sent later. */
export interface EncodedChange {
  readonly encoded: ReadonlyMap<string, EncodedTensor>;
  readonly decoded: Parameters;
  /** Absent without error feedback. */
  readonly residual?: Parameters;
}

/** Narrows a change and, with error feedback, `residual` with it. */
export function encodeChange(
  task: TaskSettings,
  change: Parameters,
  residual?: Parameters,
): EncodedChange {
  const { encoding, keepFraction } = task.full;
  if (keepsResidual(task)) return encodeWithResidual(change, residual, encoding, { keepFraction });
  const encoded = encodeAll(change, encoding, { keepFraction });
  return { encoded, decoded: decodeAll(encoded) };
}

/** What a device remembers of an update that it has encoded. */
export function rememberResidual({ residual }: EncodedChange): SectionChanges {
  return residual ? { residual } : {};
}

/** Whether what the encoding loses is kept for the next change. */
function keepsResidual({ full, aggregation }: TaskSettings): boolean {
  if (full.encoding === "float32" || aggregation.method === "stack") return false;
  return full.errorFeedback ?? isCoarse(full.encoding);
}

// bf16 rounds each value by at most 2^-8 of itself: not worth a copy of theta on every device.
function isCoarse(encoding: EncodingName): boolean {
  return encoding !== "float32" && encoding !== "bf16";
}
