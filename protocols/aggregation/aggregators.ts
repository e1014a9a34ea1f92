// The aggregators by name: how a round's updates become one.
import { elementCount, type Parameters } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";
import { clipping } from "./clipping.ts";
import { contributionCheck } from "./contributions.ts";
import { medianOf, reduceCoordinates, trimmedMeanOf } from "./coordinates.ts";
import { krum } from "./krum.ts";
import { meanAccumulator, type UpdateAccumulator } from "./mean.ts";
import type { AggregationOptions } from "./options.ts";

/** One way to combine updates. */
export interface Aggregator {
  /** Whether it forgets a contribution once it is added, or needs all of them at once. */
  readonly memory: "stream" | "all";
  /** An empty aggregation. */
  open(options: AggregationOptions): UpdateAccumulator;
}

/** The aggregators; a missing one does not compile. */
export const aggregators: Readonly<Record<AggregationOptions["combine"], Aggregator>> = {
  mean: { memory: "stream", open: () => meanAccumulator() },
  trimmedMean: ofAll((all, { trimFraction }) =>
    reduceCoordinates(all, trimmedMeanOf(trimFraction)),
  ),
  median: ofAll((all) => reduceCoordinates(all, medianOf)),
  krum: ofAll((all, { byzantine }) => krum(all, byzantine)),
};

/** An empty aggregation as a task asks for it: its aggregator, behind norm clipping where there is a maximum. */
export function openAggregation(options: AggregationOptions): UpdateAccumulator {
  const accumulator = aggregators[options.combine].open(options);
  return options.maximumNorm === undefined
    ? accumulator
    : clipping(accumulator, options.maximumNorm);
}

/** Bytes of updates that a round of so many devices keeps at once, each with tensors of these shapes in float32; 0 for a stream. */
export function aggregationBytes(
  { combine, method }: AggregationOptions,
  devices: number,
  shapes: ReadonlyMap<string, readonly number[]>,
): number {
  if (aggregators[combine].memory === "stream" && method !== "stack") return 0;
  const values = [...shapes.values()].reduce((sum, shape) => sum + elementCount(shape), 0);
  return devices * values * Float32Array.BYTES_PER_ELEMENT;
}

/** The most devices whose updates a round of such tensors can keep at once; infinite for a stream. */
export function aggregationPlaces(
  options: AggregationOptions,
  shapes: ReadonlyMap<string, readonly number[]>,
): number {
  return Math.floor(options.memoryBytes / aggregationBytes(options, 1, shapes));
}

/** Throws `AGGREGATION_MEMORY_EXCEEDED` when a round of so many devices would keep more than the task allows. */
export function requireAggregationMemory(
  options: AggregationOptions,
  devices: number,
  shapes: ReadonlyMap<string, readonly number[]>,
): void {
  const bytes = aggregationBytes(options, devices, shapes);
  if (bytes > options.memoryBytes) throw tooLarge(options, `${devices} devices`, bytes);
}

/** Contributions kept until the end, no more of them than the task's memory holds. Throws as `UpdateAccumulator.add` does, and `AGGREGATION_MEMORY_EXCEEDED`. */
export function keepAll<T extends Contribution>(
  options: AggregationOptions,
): { readonly all: readonly T[]; add(contribution: T): void } {
  const all: T[] = [];
  const check = contributionCheck();
  let bytes = 0;
  return {
    all,
    add: (contribution) => {
      check(contribution);
      for (const { data } of contribution.update.values()) bytes += data.byteLength;
      if (bytes > options.memoryBytes) {
        throw tooLarge(options, `contribution of device ${contribution.deviceId}`, bytes);
      }
      all.push(contribution);
    },
  };
}

function ofAll(
  combine: (all: readonly Contribution[], options: AggregationOptions) => Parameters,
): Aggregator {
  return {
    memory: "all",
    open: (options) => {
      const { all, add } = keepAll(options);
      return { add, finish: () => combine(all, options) };
    },
  };
}

function tooLarge(
  { combine, method, memoryBytes }: AggregationOptions,
  of: string,
  bytes: number,
): Error {
  const name = method === "stack" ? method : combine;
  const text = `${of}: ${name} needs all updates at once, ${bytes} bytes; aggregation.memoryBytes is ${memoryBytes}`;
  return protocolErrors.error("AGGREGATION_MEMORY_EXCEEDED", text, {
    hint: "Raise aggregation.memoryBytes, ask fewer devices in a round, or combine with the mean.",
  });
}
