// Which devices a round asks, how many it needs and how long it waits for them.
import { z } from "zod";

const positiveInt = z.int().positive();

/** Settings of the cohort. */
export const cohortOptions = z
  .strictObject({
    minimumDevices: positiveInt.default(1),
    roundDeadlineMs: positiveInt.default(600_000),
    /** Upper limit of one device's weight in the mean. */
    maximumWeight: positiveInt.default(1_000_000),
  })
  .prefault({});
