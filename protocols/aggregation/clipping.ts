// Clipping of whole updates by their norm: what one device can move is bounded, however it came by its update
// (McMahan et al. 2018, arXiv 1710.06963, section 3.1, flat clipping).
import { clipScale, squaredNorms } from "../../runtime/index.ts";
import { scaleBundle } from "../bundles.ts";
import type { Contribution } from "../protocol.ts";
import { contributionCheck } from "./contributions.ts";
import type { UpdateAccumulator } from "./mean.ts";

/** The contribution with its update scaled down to the norm (L2 over all its tensors, float64, in name order); itself when it is within it. */
export function clipContribution(contribution: Contribution, maximumNorm: number): Contribution {
  const scale = clipScale(squaredNorms(contribution.update), maximumNorm);
  if (scale === 1) return contribution;
  return { ...contribution, update: scaleBundle(contribution.update, scale) };
}

/** Clips what goes into an accumulator, one contribution at a time. */
export function clipping(accumulator: UpdateAccumulator, maximumNorm: number): UpdateAccumulator {
  // Before clipping: a norm of what is not finite would turn a value that can be named into many.
  const check = contributionCheck();
  return {
    add: (contribution) => {
      check(contribution);
      accumulator.add(clipContribution(contribution, maximumNorm));
    },
    finish: () => accumulator.finish(),
  };
}
