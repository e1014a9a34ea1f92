// What travels in `full`: the global parameters down, the device's update or gradient up.
import { z } from "zod";
import { catchUpFields, globalFields } from "../global-model.ts";
import type { PayloadOf } from "../payload.ts";
import { contributionFields } from "../weight.ts";

export const fullDownKinds = { model: globalFields };
export const fullUpKinds = {
  catchUp: catchUpFields,
  update: z.strictObject(contributionFields),
  gradient: z.strictObject(contributionFields),
};

/** theta_t: the start, its change or the whole of it. */
export type FullDown = PayloadOf<typeof fullDownKinds>;
/** A request for the whole of theta_t; theta_i - theta_t by parameter name; or the mean gradient at theta_t. */
export type FullUp = PayloadOf<typeof fullUpKinds>;
