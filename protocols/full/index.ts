// `full` (FedLLM; Yan et al. 2025): adapter updates travel.
import { parsePayload, rawTensorBytes } from "../payload.ts";
import type { Protocol } from "../protocol.ts";
import { createFullClient } from "./client.ts";
import { estimateFull } from "./cost.ts";
import { type FullDown, type FullUp, fullDownKinds, fullUpKinds } from "./messages.ts";
import { createFullServer } from "./server.ts";

/** Parameters down, updates up. */
export const full: Protocol<FullDown, FullUp> = {
  name: "full",
  version: 1,
  estimate: estimateFull,
  heeds: ["rank", "encoding"],
  modes: ({ execution }) => execution.modes,
  parseDown: (payload) => parsePayload(payload, fullDownKinds),
  parseUp: (payload) => parsePayload(payload, fullUpKinds),
  rawBytes: rawTensorBytes,
  createClient: createFullClient,
  createServer: createFullServer,
};
