// Krum (Blanchard et al. 2017, arXiv 1703.02757, section 4): the update of the one device that is nearest to most others. It
// bears f devices that send anything, when there are at least 2f + 3.
import {
  type Float32Tensor,
  type Parameters,
  sameShape,
  squaredNorms,
} from "../../runtime/index.ts";
import { protocolErrors } from "../errors.ts";
import type { Contribution } from "../protocol.ts";
import { shapeMismatch } from "./contributions.ts";
import { medianOf } from "./coordinates.ts";

/**
 * The update with the smallest sum of squared distances to its n - f - 2 nearest; of equal ones the first in device-id order. Unweighted.
 *
 * Distances are between whole updates, each tensor divided by the median of its norm over the devices: B and a head of
 * other magnitude than A count alike, and no minority can move the divisor. Throws `AGGREGATION_TOO_FEW` below 2f + 3 devices and
 * `PROTOCOL_SHAPE_MISMATCH` when devices carry different tensors, which have no distance.
 */
export function krum(contributions: readonly Contribution[], byzantine: number): Parameters {
  const updates = byDevice(contributions);
  const devices = [...updates.keys()];
  if (devices.length < 2 * byzantine + 3) {
    const text = `${devices.length} devices contributed, krum with ${byzantine} byzantine ones needs ${2 * byzantine + 3}; kd devices contribute no update`;
    throw protocolErrors.error("AGGREGATION_TOO_FEW", text);
  }
  checkAlike(updates);
  const distances = squaredDistances([...updates.values()]);
  const scores = distances.map((row, self) => score(row, self, devices.length - byzantine - 2));
  const best = scores.indexOf(Math.min(...scores));
  const chosen = updates.get(devices[best] as string) as Parameters;
  return new Map([...chosen].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** One update for each device, however many bundles it came in. */
function byDevice(contributions: readonly Contribution[]): ReadonlyMap<string, Parameters> {
  const updates = new Map<string, Parameters>();
  for (const { deviceId, update } of contributions) {
    updates.set(deviceId, new Map([...(updates.get(deviceId) ?? []), ...update]));
  }
  return updates;
}

function checkAlike(updates: ReadonlyMap<string, Parameters>): void {
  const [first = new Map<string, Float32Tensor>()] = updates.values();
  for (const [deviceId, update] of updates) {
    for (const name of new Set([...first.keys(), ...update.keys()])) {
      const [expected, actual] = [first.get(name)?.shape, update.get(name)?.shape];
      if (expected && actual && sameShape(expected, actual)) continue;
      throw shapeMismatch(`krum: device ${deviceId}: ${name}`, actual ?? [], expected, [
        ...first.keys(),
      ]);
    }
  }
}

/** Squared distances of each update to each, [device][device]. */
function squaredDistances(updates: readonly Parameters[]): readonly Float64Array[] {
  const result = updates.map(() => new Float64Array(updates.length));
  const norms = updates.map(squaredNorms);
  for (const name of [...(updates[0]?.keys() ?? [])].sort()) {
    const scale = scaleOf(norms.map((squares) => Math.sqrt(squares.get(name) as number)));
    const tensors = updates.map((update) => (update.get(name) as Float32Tensor).data);
    for (const [i, a] of tensors.entries()) {
      for (const [j, b] of tensors.slice(0, i).entries()) {
        const squared = squaredDistance(a, b) / scale ** 2;
        for (const [from, to] of [
          [i, j],
          [j, i],
        ] as const) {
          const row = result[from] as Float64Array;
          row[to] = (row[to] as number) + squared;
        }
      }
    }
  }
  return result;
}

/** The median norm; where most updates are zero the largest, so that the others lie at about 1. */
function scaleOf(norms: readonly number[]): number {
  const sorted = Float64Array.from(norms).sort();
  return medianOf(sorted) || (sorted.at(-1) ?? 0) || 1;
}

function squaredDistance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  return sum;
}

function score(distances: Float64Array, self: number, nearest: number): number {
  const others = distances.filter((_, i) => i !== self).sort();
  return others.subarray(0, nearest).reduce((sum, distance) => sum + distance, 0);
}
