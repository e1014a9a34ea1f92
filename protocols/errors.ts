// Codes of `protocols/`: what the two ends of a protocol refuse, and why.
import { defineErrors } from "../runtime/index.ts";

/** Codes of `protocols/`. */
export const protocolErrors = defineErrors({
  PROTOCOL_TENSOR_INVALID:
    "An encoded tensor's bytes do not fit its shape, or it holds values that are not finite.",
  PROTOCOL_SHAPE_MISMATCH: "A named tensor is unknown or has another shape than the other end's.",
  PROTOCOL_PAYLOAD_INVALID: "A message lacks a field or a tensor, or carries one of a wrong type.",
  PROTOCOL_OUT_OF_TURN: "A message arrived that this moment of the round does not expect.",
  PROTOCOL_VERSION_MISMATCH: "The two ends speak different versions of a protocol.",
  PROTOCOL_UNKNOWN: "A protocol was named that this end does not have.",
  PROTOCOL_PACKAGE_MISSING: "A listed protocol package or file cannot be imported.",
  PROTOCOL_PACKAGE_INVALID:
    "A listed package exports no protocol, one of another shape, or one whose name is taken.",
  PROTOCOL_LABELS_WOULD_LEAVE:
    "The protocol would send labels off the device and the task does not allow it.",
  PROTOCOL_WEIGHT_INVALID: "A contribution's weight is not a positive, finite number.",
  AGGREGATION_ORDER_INVALID:
    "Contributions did not arrive in device-id order, or one device contributed a tensor twice.",
  AGGREGATION_TOO_FEW: "Fewer devices contributed than the aggregator needs.",
  AGGREGATION_MEMORY_EXCEEDED:
    "The aggregator needs all updates of a round at once, which are more than the task allows.",
  SELECTION_IMPOSSIBLE: "No protocol fits the device's profile and budget.",
  TASK_INVALID: "The task lacks a field or holds one of a wrong type or range.",
});
