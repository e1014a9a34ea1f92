// The weighted mean of updates (FedAvg: McMahan et al. 2017, arXiv 1602.05629, algorithm 1), tensor by
// tensor over the contributions that carry it, so that boards with different parts of the model enter one mean.
import { type Float32Tensor, float32, type Parameters, sameShape } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";

/** A mean in the making: memory for one float64 sum per value, however many contributions come. */
export interface MeanAccumulator {
  /**
   * Adds a contribution. They come in device-id order (`compareDeviceIds`); one device may come more than once as long
   * as its tensors differ, so front and tail count alike in one bundle or in two.
   * Throws and adds nothing: `AGGREGATION_ORDER_INVALID`, `PROTOCOL_WEIGHT_INVALID`, `PROTOCOL_SHAPE_MISMATCH`, `PROTOCOL_TENSOR_INVALID`.
   */
  add(contribution: Contribution): void;
  /** The mean so far, tensors in name order; a tensor that nobody carried is absent. */
  finish(): Parameters;
}

/**
 * Mean of the contributions' updates, each counted `weight` times.
 *
 * Summed in float64 in device-id order, so equal contributions give equal bytes in whatever order they came.
 * Throws as `MeanAccumulator.add` does.
 */
export function weightedMean(contributions: Iterable<Contribution>): Parameters {
  const mean = meanAccumulator();
  const ordered = [...contributions].sort((a, b) => compareDeviceIds(a.deviceId, b.deviceId));
  for (const contribution of ordered) mean.add(contribution);
  return mean.finish();
}

/** An empty mean that takes contributions one by one. */
export function meanAccumulator(): MeanAccumulator {
  const sums = new Map<string, Sum>();
  let lastDevice: string | undefined;
  return {
    add: (contribution) => {
      checkContribution(contribution, sums, lastDevice);
      lastDevice = contribution.deviceId;
      for (const [name, tensor] of contribution.update) {
        const sum = sums.get(name) ?? emptySum(tensor.shape);
        sums.set(name, addTo(sum, tensor, contribution));
      }
    },
    finish: () => {
      const names = [...sums.keys()].sort();
      return new Map(names.map((name) => [name, meanOf(sums.get(name) as Sum)]));
    },
  };
}

/** The order of every sum over devices: by UTF-16 code units, the same on every machine and in every locale. */
export function compareDeviceIds(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/**
 * The parameters after an update, in memory of their own; a parameter without an update stays the tensor it was.
 * Throws `PROTOCOL_SHAPE_MISMATCH` on a tensor that the parameters lack and `PROTOCOL_TENSOR_INVALID` when a value overflows.
 */
export function applyUpdate(parameters: Parameters, update: Parameters): Parameters {
  for (const [name, { shape }] of update) {
    const known = parameters.get(name);
    if (!known || !sameShape(known.shape, shape)) {
      throw mismatch(`update of ${name}`, shape, known?.shape, [...parameters.keys()]);
    }
  }
  return new Map(
    [...parameters].map(([name, tensor]) => {
      const change = update.get(name);
      return [name, change ? moved(name, tensor, change) : tensor];
    }),
  );
}

/** Sum of weight * value over the holders of one tensor. */
interface Sum {
  readonly shape: readonly number[];
  readonly values: Float64Array;
  readonly weight: number;
  readonly lastDevice: string;
}

function emptySum(shape: readonly number[]): Sum {
  const size = float32(shape).data.length;
  return { shape, values: new Float64Array(size), weight: 0, lastDevice: "" };
}

function addTo(sum: Sum, { data }: Float32Tensor, { weight, deviceId }: Contribution): Sum {
  const { values } = sum;
  for (let i = 0; i < values.length; i++) {
    values[i] = (values[i] as number) + weight * (data[i] as number);
  }
  return { ...sum, weight: sum.weight + weight, lastDevice: deviceId };
}

function meanOf({ shape, values, weight }: Sum): Float32Tensor {
  return float32(
    shape,
    Float32Array.from(values, (value) => value / weight),
  );
}

function moved(name: string, { shape, data }: Float32Tensor, change: Float32Tensor): Float32Tensor {
  const next = data.map((value, i) => value + (change.data[i] as number));
  checkFinite(`parameter ${name} after its update`, next);
  return float32(shape, next);
}

function checkContribution(
  { deviceId, weight, update }: Contribution,
  sums: ReadonlyMap<string, Sum>,
  lastDevice: string | undefined,
): void {
  const from = `contribution of device ${deviceId}`;
  // Beyond 2^53 counts are not exact, and sums of products may overflow.
  if (!(weight > 0 && weight <= Number.MAX_SAFE_INTEGER)) {
    const text = `${from}: weight ${weight} is not a positive, finite number of examples`;
    throw protocolErrors.error("PROTOCOL_WEIGHT_INVALID", text);
  }
  if (lastDevice !== undefined && compareDeviceIds(deviceId, lastDevice) < 0) {
    throw outOfOrder(`${from} came after that of ${lastDevice}`);
  }
  for (const [name, { shape, data }] of update) {
    const sum = sums.get(name);
    if (sum && !sameShape(sum.shape, shape)) throw mismatch(`${from}: ${name}`, shape, sum.shape);
    if (sum?.lastDevice === deviceId) throw outOfOrder(`${from} carries ${name} a second time`);
    checkFinite(`${from}: ${name}`, data);
  }
}

function checkFinite(what: string, data: Float32Array): void {
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const text = `${what}: value ${at} of ${data.length} is not finite`;
  throw protocolErrors.error("PROTOCOL_TENSOR_INVALID", text);
}

function outOfOrder(problem: string): Error {
  return protocolErrors.error("AGGREGATION_ORDER_INVALID", problem);
}

function mismatch(
  what: string,
  actual: readonly number[],
  expected: readonly number[] | undefined,
  known: readonly string[] = [],
): Error {
  const names = `no such tensor; there are ${known.slice(0, 20).join(", ") || "none"}`;
  const wanted = expected ? `expected shape [${expected.join(", ")}]` : names;
  const text = `${what}: got shape [${actual.join(", ")}], ${wanted}`;
  return protocolErrors.error("PROTOCOL_SHAPE_MISMATCH", text);
}
