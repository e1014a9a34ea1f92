// The one global adapter set: how it travels to devices and how a round's contributions move it.
import { z } from "zod";
import type { Parameters } from "../runtime/index.ts";
import {
  applyUpdate,
  bufferedMean,
  meanAccumulator,
  type StaleContribution,
} from "./aggregation/index.ts";
import type { EncodedTensor } from "./encoding/encoded.ts";
import { encodeAll } from "./encoding/index.ts";
import { decodeExactly, difference } from "./payload.ts";
import { perGlobal } from "./per-global.ts";
import { initialOf } from "./plan.ts";
import type { Contribution, GlobalModel } from "./protocol.ts";
import type { Task } from "./task.ts";

/** Fields that go with encoded global parameters. */
export const globalFields = z.strictObject({
  /** What the tensors are added to: nothing (float32) or the task's seeded start. */
  relativeTo: z.enum(["nothing", "initial"]),
});

/** How a task narrows adapters and their updates. */
export type GlobalEncoding = Pick<Task["full"], "encoding" | "keepFraction">;

/** Global parameters as they travel. */
export interface EncodedGlobal {
  readonly fields: z.output<typeof globalFields>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
}

/**
 * Narrows the global parameters. Float32 travels as it is; narrower encodings carry the distance from the
 * seeded start, which both ends know, so that what training moved keeps the encoding's full precision.
 */
export function encodeGlobal(
  parameters: Parameters,
  initial: Parameters,
  { encoding, keepFraction }: GlobalEncoding,
): EncodedGlobal {
  if (encoding === "float32") {
    return { fields: { relativeTo: "nothing" }, tensors: encodeAll(parameters, encoding) };
  }
  return {
    fields: { relativeTo: "initial" },
    tensors: encodeAll(difference(parameters, initial), encoding, { keepFraction }),
  };
}

/** Encodes for all lanes of a round what its global model is at the task's encoding, once. */
export function globalEncoder(task: Task): (global: GlobalModel) => EncodedGlobal {
  const initial = initialOf(task);
  return perGlobal(({ parameters }) => encodeGlobal(parameters, initial, task.full));
}

/** What a device makes of encoded parameters that must have the names and shapes of `initial`. */
export function decodeGlobal({ fields, tensors }: EncodedGlobal, initial: Parameters): Parameters {
  const shapes = new Map([...initial].map(([name, { shape }]) => [name, shape]));
  const decoded = decodeExactly(tensors, shapes);
  return fields.relativeTo === "nothing" ? decoded : applyUpdate(initial, decoded);
}

/**
 * The parameters as every device will decode them. The coordinator adopts these, so that updates move what
 * devices had; encoding them again may move a value by its last bit, with float32 by nothing.
 */
export function adoptDecoded(
  parameters: Parameters,
  initial: Parameters,
  encoding: GlobalEncoding,
): Parameters {
  return decodeGlobal(encodeGlobal(parameters, initial, encoding), initial);
}

/**
 * The global model after a round: theta + the mean of the contributions, per tensor over those that carry
 * it (FRAMEWORKS.md section 4). Contributions must come in device-id order; none leaves theta as it is.
 */
export function foldRound(global: GlobalModel, contributions: Iterable<Contribution>): GlobalModel {
  const mean = meanAccumulator();
  for (const contribution of contributions) mean.add(contribution);
  return { round: global.round + 1, parameters: applyUpdate(global.parameters, mean.finish()) };
}

/** The global model of an asynchronous federation after a filled buffer: theta + sum(s(tau) * delta) / K. */
export function foldBuffer(
  global: GlobalModel,
  contributions: Iterable<StaleContribution>,
): GlobalModel {
  const parameters = applyUpdate(global.parameters, bufferedMean(contributions));
  return { round: global.round + 1, parameters };
}
