// What moves bytes: transports, the embedded broker, envelopes and frames, links, presence, access rules.
export * from "./access.ts";
export type { PieceStore } from "./bodies.ts";
export * from "./clock.ts";
export type { Piece } from "./codec/assembler.ts";
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
export { decodeFrame, encodeFrame, type Frame } from "./codec/frames.ts";
export { headerSchema } from "./codec/header.ts";
export type { Credentials } from "./credentials.ts";
export type { DeliveryCounters } from "./delivery.ts";
export * from "./embedded.ts";
export * from "./errors.ts";
export { createIntake, type Intake } from "./intake.ts";
export * from "./link.ts";
export * from "./link-seam.ts";
export {
  isLoopback,
  type ListenerAddress,
  type ListenerTls,
  type ListeningAddress,
} from "./listeners.ts";
export * from "./piece-files.ts";
export * from "./presence.ts";
export * from "./presence-watch.ts";
export * from "./round-link.ts";
export {
  ownTopicProbeSchema,
  type PeerStatus,
  type StatusDetails,
  statusSchema,
} from "./status.ts";
export * from "./topics.ts";
export { type BackOff, defaultBackOff } from "./transport/back-off.ts";
export { type BrokerScheme, isScheme, schemes } from "./transport/broker-address.ts";
export * from "./transport/memory.ts";
export * from "./transport/mqtt.ts";
export * from "./transport/traffic.ts";
export * from "./transport/transport.ts";
