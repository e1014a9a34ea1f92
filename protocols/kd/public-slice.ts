// Which texts of the public set a round speaks about: all, or a slice that moves on from round to round.
import { type Example, randomStream } from "../../runtime/index.ts";
import type { Task } from "../task.ts";

/**
 * The round's public texts; both ends derive the same ones from (seed, round). One shuffle of all texts is passed through
 * like a ring, so that each comes up equally often and none twice in a slice.
 */
export function publicSlice(
  task: Task,
  publicSet: readonly Example[],
  round: number,
): readonly Example[] {
  const size = sliceLength(task, publicSet.length);
  if (size === publicSet.length) return publicSet;
  const order = randomStream(task.seed, "public-slices").shuffle([...publicSet.keys()]);
  return Array.from({ length: size }, (_, i) => {
    const place = ((round - 1) * size + i) % order.length;
    return publicSet[order[place] as number] as Example;
  });
}

/** Texts in a slice of a public set of `texts`. */
export function sliceLength({ kd }: Task, texts: number): number {
  return Math.min(kd.sliceSize ?? texts, texts);
}
