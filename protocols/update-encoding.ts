// How changes of theta are narrowed, up and down alike: at the task's encoding, with what it loses added to the next one
// (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1).
import { type Float32Tensor, float32, type Parameters } from "../runtime/index.ts";
import type { SectionChanges } from "./client-memory.ts";
import type { EncodedTensor, EncodingName } from "./encoding/encoded.ts";
import { decodeAll, encodeAll } from "./encoding/index.ts";
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

/** Narrows a change and, with error feedback, `residual` with it; a tensor without a residual has lost nothing so far. */
export function encodeChange(
  task: TaskSettings,
  change: Parameters,
  residual?: Parameters,
): EncodedChange {
  const { encoding, keepFraction } = task.full;
  if (!keepsResidual(task)) {
    const encoded = encodeAll(change, encoding, { keepFraction });
    return { encoded, decoded: decodeAll(encoded) };
  }
  const wanted = combine(change, residual ?? new Map(), (value, lost) => value + lost);
  const encoded = encodeAll(wanted, encoding, { keepFraction });
  const decoded = decodeAll(encoded);
  return { encoded, decoded, residual: combine(wanted, decoded, (value, sent) => value - sent) };
}

/** What a device remembers of an update that it has encoded. */
export function rememberResidual({ residual }: EncodedChange): SectionChanges {
  return residual ? { residual } : {};
}

/** Whether what the encoding loses is kept for the next change. */
function keepsResidual({ full }: TaskSettings): boolean {
  return full.encoding !== "float32" && (full.errorFeedback ?? isCoarse(full.encoding));
}

// bf16 rounds each value by at most 2^-9 of itself: not worth a copy of theta on every device.
function isCoarse(encoding: EncodingName): boolean {
  return encoding !== "float32" && encoding !== "bf16";
}

function combine(
  tensors: Parameters,
  others: Parameters,
  of: (value: number, other: number) => number,
): Parameters {
  const one = ([name, tensor]: [string, Float32Tensor]): [string, Float32Tensor] => {
    const other = others.get(name)?.data;
    const { shape, data } = tensor;
    return [
      name,
      other
        ? float32(
            shape,
            data.map((value, i) => of(value, other[i] as number)),
          )
        : tensor,
    ];
  };
  return new Map([...tensors].map(one));
}
