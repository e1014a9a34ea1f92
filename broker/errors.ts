import { defineErrors } from "../runtime/index.ts";

/** Codes of `broker/`. */
export const brokerErrors = defineErrors({
  BROKER_UNREACHABLE: "The broker does not answer, or the connection is down.",
  BROKER_URL_INVALID:
    "The broker's address is not mqtt://, mqtts://, ws:// or wss:// with a host and a port.",
  BROKER_CREDENTIALS_REFUSED: "The broker refused the user name or password, or this client id.",
  BROKER_CERTIFICATE_REFUSED: "The broker's certificate is not trusted by this machine.",
  CLOCK_NOT_SET:
    "A certificate is not valid at this machine's time: its clock is wrong, or soon will not be.",
  BROKER_TLS_FILES_INVALID: "The certificate, key or authority is not usable PEM.",
  BROKER_SUBSCRIPTION_REFUSED: "The broker does not let this client read a topic.",
  BROKER_OVERLOADED: "More messages wait for the broker than this client holds.",
  BROKER_LISTENER_UNPROTECTED:
    "A listener lets anyone in: beyond loopback never, on loopback only with --anonymous.",
  BROKER_STORE_UNUSABLE: "The folder of what the broker retains cannot be opened.",
  BROKER_PORT_TAKEN: "Another program listens on the port.",
  BROKER_LISTEN_FAILED: "The broker cannot listen on that address.",
  BROKER_ID_INVALID: "An id is not 1 to 64 letters, digits, dashes or underscores, or is reserved.",
  DEVICE_ID_IN_USE: "Another live process uses this device's id.",
  ENVELOPE_INVALID: "A message is damaged, malformed, or holds what may not travel.",
  ENVELOPE_TOO_LARGE: "A message exceeds the size that this end accepts.",
  LINK_CLOSED: "The link or the connection was closed while something waited on it.",
  LINK_OVERLOADED: "The peer has more unanswered requests than this end accepts.",
  PEER_FAILED: "The peer could not process the request; its own log says why.",
  LANE_STALE: "The message belongs to a lane that is not the device's current one.",
  LANE_ANSWER_LOST: "The answer to a repeated lane message is no longer stored.",
});
