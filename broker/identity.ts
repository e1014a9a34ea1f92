// Who a connection is: what its certificate or its password proves, or, on a loopback listener without either, what it says.
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { type Identity, refuseConnect } from "./access.ts";
import { type Credentials, hasPassword } from "./credentials.ts";

/** What a client says of itself (MQTT 3.1.1 section 3.1.3). */
export interface Claim {
  readonly clientId: string;
  readonly username: string | undefined;
  readonly password: Uint8Array | undefined;
}

/** Why a client is not let in, with the return code of its CONNACK (MQTT 3.1.1 section 3.2.2.3). */
export interface Denial {
  readonly message: string;
  readonly returnCode: number;
}

const returnCodes = { identifierRejected: 2, badUserNameOrPassword: 4, notAuthorised: 5 } as const;

/** What a listener asks for. */
export interface IdentityRules {
  readonly credentials: Credentials | undefined;
  /** Serial numbers of certificates that are not believed any more, in lower case. */
  readonly isRevoked: (serial: string) => boolean;
}

/** The identity that a claim over this socket proves, or why it proves none. */
export function identify(socket: Duplex, claim: Claim, rules: IdentityRules): Identity | Denial {
  const certificate = certificateOf(socket);
  if (certificate !== undefined && rules.isRevoked(certificate.serial)) {
    const message = `the certificate ${certificate.serial} of ${certificate.name} is revoked`;
    return { message, returnCode: returnCodes.notAuthorised };
  }
  const { clientId, username, password } = claim;
  const isKnown = certificate !== undefined || rules.credentials === undefined;
  if (!isKnown && !hasPassword(rules.credentials ?? new Map(), username, password)) {
    const message = "wrong user name or password";
    return { message, returnCode: returnCodes.badUserNameOrPassword };
  }
  const proven = certificate?.name ?? (rules.credentials === undefined ? undefined : username);
  const identity = {
    clientId,
    ...(proven === undefined ? {} : { username: proven }),
    ...(certificate === undefined ? {} : { serial: certificate.serial }),
  };
  const refusal = refuseConnect(identity);
  return refusal === undefined
    ? identity
    : { message: refusal, returnCode: returnCodes.identifierRejected };
}

/** Whether nobody was identified. */
export function isDenial(outcome: Identity | Denial): outcome is Denial {
  return "returnCode" in outcome;
}

/** Common name and serial number of a client certificate that this listener's authority has signed. */
function certificateOf(
  socket: Duplex,
): { readonly name: string; readonly serial: string } | undefined {
  const { authorized, getPeerCertificate } = socket as Partial<TLSSocket>;
  if (authorized !== true || getPeerCertificate === undefined) {
    return undefined;
  }
  const { subject, serialNumber } = getPeerCertificate.call(socket);
  const name: unknown = subject?.CN;
  return typeof name === "string" && typeof serialNumber === "string"
    ? { name, serial: serialNumber.toLowerCase() }
    : undefined;
}
