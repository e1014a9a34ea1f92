// What travels in `full`: the global parameters down, the device's update up.
import { z } from "zod";
import { globalFields } from "../global-model.ts";
import type { PayloadOf } from "../payload.ts";
import { contributionFields } from "../weight.ts";

export const fullDownKinds = { model: globalFields };
export const fullUpKinds = { update: z.strictObject(contributionFields) };

/** theta_t. */
export type FullDown = PayloadOf<typeof fullDownKinds>;
/** theta_i - theta_t by parameter name. */
export type FullUp = PayloadOf<typeof fullUpKinds>;
