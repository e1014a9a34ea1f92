// `split` (Split-FedLLM; Yan et al. 2025): activations up, their gradients down.
import { parsePayload } from "../payload.ts";
import type { Protocol } from "../protocol.ts";
import { createSplitClient } from "./client.ts";
import { estimateSplit } from "./cost.ts";
import { cutLayers, labelRefusal, momentsRefusal } from "./cut.ts";
import { type SplitDown, type SplitUp, splitDownKinds, splitUpKinds } from "./messages.ts";
import { rawSplitBytes } from "./raw-bytes.ts";
import { createSplitServer } from "./server.ts";
import { splitTensors } from "./tensors.ts";

/** The front on the device, the tail on the coordinator. */
export const split: Protocol<SplitDown, SplitUp> = {
  name: "split",
  version: 2,
  estimate: estimateSplit,
  cutLayers,
  tensors: splitTensors,
  refusal: (task) => labelRefusal(task) ?? momentsRefusal(task),
  parseDown: (payload) => parsePayload(payload, splitDownKinds),
  parseUp: (payload) => parsePayload(payload, splitUpKinds),
  rawBytes: rawSplitBytes,
  createClient: createSplitClient,
  createServer: createSplitServer,
};
