// `kd` (KD-FedLLM; Yan et al. 2025): logits travel.
import { parsePayload } from "../payload.ts";
import type { Protocol } from "../protocol.ts";
import { createKdClient } from "./client.ts";
import { estimateKd } from "./cost.ts";
import { rawLogitsBytes } from "./logits.ts";
import { type KdDown, type KdUp, kdDownKinds, kdUpKinds } from "./messages.ts";
import { createKdServer } from "./server.ts";
import { allowanceOf } from "./top-k.ts";

/** Logits on the public set, both ways. */
export const kd: Protocol<KdDown, KdUp> = {
  name: "kd",
  version: 2,
  runsOwnModel: true,
  estimate: estimateKd,
  allowance: allowanceOf,
  modes: ({ execution }) => execution.modes,
  refusal: ({ manifest }) => (manifest.publicSet ? undefined : "the task has no public set"),
  parseDown: (payload) => parsePayload(payload, kdDownKinds),
  parseUp: (payload) => parsePayload(payload, kdUpKinds),
  rawBytes: rawLogitsBytes,
  createClient: createKdClient,
  createServer: createKdServer,
};
