// Settings of `aggregation` in a task: how a round's contributions become the next global model.
import { z } from "zod";

/** The method, the aggregator and the server's optimizer; the defaults are the weighted mean, added as it is. */
export const aggregationOptions = z
  .strictObject({
    /** fedavg: both factors (mean(B) mean(A), with its bias); ffa: A stays at its start; stack: the products, factored again. */
    method: z.enum(["fedavg", "ffa", "stack"]).default("fedavg"),
    combine: z.enum(["mean", "trimmedMean", "median", "krum"]).default("mean"),
    /** Share of the values that trimmedMean drops at each end. */
    trimFraction: z.number().min(0).max(0.5).default(0.2),
    /** Devices whose updates may be anything (f), for krum. */
    byzantine: z.int().min(1).default(1),
    /** Largest L2 norm of one contribution; those above it are scaled down to it. */
    maximumNorm: z.number().positive().optional(),
    optimizer: z
      .strictObject({
        kind: z.enum(["fedavg", "fedavgm", "fedadam", "fedyogi"]).default("fedavg"),
        /** 1 for fedavg and fedavgm, 0.01 for fedadam and fedyogi when left out. */
        rate: z.number().positive().optional(),
        /** Of fedavgm; beta1 of fedadam and fedyogi. */
        momentum: z.number().min(0).max(0.999).default(0.9),
        /** Of the squares of fedadam and fedyogi. */
        beta2: z.number().min(0).max(0.9999).default(0.99),
        /** tau of fedadam and fedyogi: updates much smaller than this are not enlarged. */
        epsilon: z.number().positive().default(1e-3),
      })
      .prefault({}),
    /** Most memory for updates of aggregators that need all of them at once. */
    memoryBytes: z.int().positive().default(1_000_000_000),
  })
  .prefault({});

/** Settings of the aggregation, defaults filled in. */
export type AggregationOptions = z.output<typeof aggregationOptions>;

/** Settings of the server's optimizer. */
export type ServerOptimizerOptions = AggregationOptions["optimizer"];
