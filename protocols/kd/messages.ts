// What travels in `kd`: logits on the public set, both ways.
import { z } from "zod";
import type { PayloadOf } from "../payload.ts";
import { contributionFields } from "../weight.ts";
import { logitsFields } from "./logits.ts";

export const kdDownKinds = {
  /** The first round: the coordinator knows nothing beyond the seeded start yet. */
  begin: z.strictObject({}),
  /** The coordinator's logits on the round's public texts. */
  knowledge: z.strictObject(logitsFields),
};
export const kdUpKinds = { knowledge: z.strictObject({ ...logitsFields, ...contributionFields }) };

export type KdDown = PayloadOf<typeof kdDownKinds>;
export type KdUp = PayloadOf<typeof kdUpKinds>;
