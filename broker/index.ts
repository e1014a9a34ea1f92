// What moves bytes: transports, the embedded broker, envelopes and frames, links, presence, access rules.
export * from "./access.ts";
export * from "./clock.ts";
export {
  decodeEnvelope,
  defaultLimits,
  type Envelope,
  type EnvelopeLimits,
  encodeEnvelope,
  type MessageReference,
  type WireError,
  wireVersion,
} from "./codec/envelope.ts";
export { headerSchema } from "./codec/header.ts";
export type { Credentials } from "./credentials.ts";
export type { DeliveryCounters } from "./delivery.ts";
export * from "./embedded.ts";
export * from "./errors.ts";
export * from "./link.ts";
export * from "./presence.ts";
export * from "./round-link.ts";
export * from "./topics.ts";
export { type BackOff, defaultBackOff } from "./transport/back-off.ts";
export * from "./transport/memory.ts";
export * from "./transport/mqtt.ts";
export * from "./transport/traffic.ts";
export * from "./transport/transport.ts";
