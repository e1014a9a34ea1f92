// The border of every aggregator: contributions in device-id order, each with a weight that counts and tensors that fit.
import { sameShape } from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";
import { isLeadingPart } from "./factors.ts";

/** The order of every sum over devices: by UTF-16 code units, the same on every machine and in every locale. */
export function compareDeviceIds(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** Contributions sorted as every aggregator takes them. */
export function inDeviceOrder<T extends Contribution>(contributions: Iterable<T>): T[] {
  return [...contributions].sort((a, b) => compareDeviceIds(a.deviceId, b.deviceId));
}

/**
 * A check of contributions as they come, in device-id order; one device may come more than once as long as its tensors
 * differ or it `mayRepeat`. Factors may have fewer ranks than others of their name. Throws and remembers nothing: `AGGREGATION_ORDER_INVALID`,
 * `PROTOCOL_WEIGHT_INVALID`, `PROTOCOL_SHAPE_MISMATCH`, `PROTOCOL_TENSOR_INVALID`.
 */
export function contributionCheck({
  mayRepeat = false,
} = {}): (contribution: Contribution) => void {
  const seen = new Map<string, Seen>();
  let lastDevice: string | undefined;
  return (contribution) => {
    const { deviceId, update } = contribution;
    checkWeight(contribution);
    if (lastDevice !== undefined && compareDeviceIds(deviceId, lastDevice) < 0) {
      throw outOfOrder(`${nameOf(contribution)} came after that of ${lastDevice}`);
    }
    checkTensors(contribution, seen, mayRepeat);
    lastDevice = deviceId;
    for (const [name, { shape }] of update) seen.set(name, { shape, lastDevice: deviceId });
  };
}

/** Throws `PROTOCOL_TENSOR_INVALID` when a value is not finite. */
export function checkFinite(what: string, data: Float32Array): void {
  const at = data.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const text = `${what}: value ${at} of ${data.length} is not finite`;
  throw protocolErrors.error("PROTOCOL_TENSOR_INVALID", text);
}

/** The error for a tensor of a wrong shape or, without an expected one, of a name that is not among `known`. */
export function shapeMismatch(
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

/** Of a tensor's contributions so far. */
interface Seen {
  readonly shape: readonly number[];
  readonly lastDevice: string;
}

function checkWeight(contribution: Contribution): void {
  const { weight } = contribution;
  // Beyond 2^53 counts are not exact, and sums of products may overflow.
  if (weight > 0 && weight <= Number.MAX_SAFE_INTEGER) return;
  const text = `${nameOf(contribution)}: weight ${weight} is not a positive, finite number of examples`;
  throw protocolErrors.error("PROTOCOL_WEIGHT_INVALID", text);
}

function checkTensors(
  contribution: Contribution,
  seen: ReadonlyMap<string, Seen>,
  mayRepeat: boolean,
): void {
  const from = nameOf(contribution);
  for (const [name, { shape, data }] of contribution.update) {
    const known = seen.get(name);
    if (known && !fits(name, shape, known.shape)) {
      throw shapeMismatch(`${from}: ${name}`, shape, known.shape);
    }
    if (!mayRepeat && known?.lastDevice === contribution.deviceId) {
      throw outOfOrder(`${from} carries ${name} a second time`);
    }
    checkFinite(`${from}: ${name}`, data);
  }
}

function fits(name: string, a: readonly number[], b: readonly number[]): boolean {
  return sameShape(a, b) || isLeadingPart(name, a, b) || isLeadingPart(name, b, a);
}

function nameOf({ deviceId }: Contribution): string {
  return `contribution of device ${deviceId}`;
}

function outOfOrder(problem: string): Error {
  return protocolErrors.error("AGGREGATION_ORDER_INVALID", problem);
}
