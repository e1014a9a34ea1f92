// How far a student goes towards its teacher: as far as it comes nearer, and never away from it.
import { float32, type Parameters } from "../../runtime/index.ts";
import { difference } from "../payload.ts";
import type { Distance } from "./distance.ts";

/** Where a student starts, where training would take it, and what tells which is nearer to the teacher. */
export interface Approach {
  readonly start: Parameters;
  readonly aim: Parameters;
  readonly startDistance: Distance;
  readonly distanceOf: (parameters: Parameters) => Promise<Distance>;
}

/** What an approach came to. */
export interface Approached {
  readonly parameters: Parameters;
  readonly distance: Distance;
}

/**
 * The farthest of `aim`, half, a quarter ... of the way to it that is nearer to the teacher than `start`; undefined when
 * none is. AdamW's steps are as long as the learning rate however near the teacher is: without this check, a
 * teacher that is almost the student's own opinion moves it by noise, and away from the teacher.
 */
export async function approach({
  start,
  aim,
  startDistance,
  distanceOf,
}: Approach): Promise<Approached | undefined> {
  const way = difference(aim, start);
  for (let share = 1; share >= smallestShare; share /= 2) {
    const parameters = share === 1 ? aim : partOfWay(start, way, share);
    const distance = await distanceOf(parameters);
    if (distance.divergence < startDistance.divergence) return { parameters, distance };
  }
  return undefined;
}

const smallestShare = 1 / 64;

function partOfWay(start: Parameters, way: Parameters, share: number): Parameters {
  return new Map(
    [...start].map(([name, { shape, data }]) => {
      const step = way.get(name)?.data ?? new Float32Array(data.length);
      const moved = data.map((value, i) => value + share * (step[i] as number));
      return [name, float32(shape, moved)];
    }),
  );
}
