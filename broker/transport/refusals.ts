// What a failed connection means: whether to try again, and what to tell whoever waits.
import type { TrifoldError } from "../../runtime/index.ts";
import { brokerErrors } from "../errors.ts";

/** A clock that stands before this program was written is wrong. */
const writtenAtMs = Date.UTC(2026, 10, 1);

/** The error to stop with, when trying again cannot help. */
export function finalRefusal(
  error: Error | undefined,
  clientId: string,
  shown: string,
): TrifoldError | undefined {
  const code = (error as { code?: unknown } | undefined)?.code;
  if (code === 2 || code === 4 || code === 5) {
    return brokerErrors.error(
      "BROKER_CREDENTIALS_REFUSED",
      `${shown} refused the client ${clientId} (CONNACK ${code}, ${connackMeanings[code]})`,
      {
        cause: error,
        hint: "a device's user name or certificate name is its id; see the broker's log",
      },
    );
  }
  if (typeof code !== "string") {
    return undefined;
  }
  if (/ALERT_(CERTIFICATE_REQUIRED|UNKNOWN_CA|BAD_CERTIFICATE|HANDSHAKE_FAILURE)/.test(code)) {
    return brokerErrors.error(
      "BROKER_CREDENTIALS_REFUSED",
      `${shown} wants a certificate of its own authority from the client ${clientId} (${code})`,
      { cause: error, hint: "give --cert and --key as `trifold keys device NAME` made them" },
    );
  }
  const isExpired = code === "CERT_HAS_EXPIRED" && Date.now() >= writtenAtMs;
  if (isExpired || untrusted.test(code)) {
    return brokerErrors.error(
      "BROKER_CERTIFICATE_REFUSED",
      `the certificate of ${shown} is not trusted (${code})`,
      { cause: error, hint: "pass the broker's authority with --ca, and use the name it is for" },
    );
  }
  return undefined;
}

/** A line on what may mend itself: a broker that is away, or this board's clock, which some time server will set. */
export function passingTrouble(error: Error | undefined, shown: string): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  if (code === "CERT_NOT_YET_VALID" || code === "CERT_HAS_EXPIRED") {
    const { message } = brokerErrors.error(
      "CLOCK_NOT_SET",
      `the certificate of ${shown} is not valid at this machine's time, ${new Date().toISOString()}`,
    );
    return `CLOCK_NOT_SET: ${message}`;
  }
  const text = error?.message === "" ? undefined : error?.message;
  const why = typeof code === "string" ? code : (text ?? "the connection ended");
  return `BROKER_UNREACHABLE: no connection to ${shown} (${why})`;
}

const connackMeanings = {
  2: "client id refused",
  4: "wrong user name or password",
  5: "not authorised",
} as const;

/** Validity dates are left out: a board without a clock chip is wrong about them until it has asked a time server. */
const untrusted =
  /SELF_SIGNED|UNABLE_TO_(VERIFY|GET_ISSUER)|CERT_(UNTRUSTED|REVOKED|REJECTED|SIGNATURE_FAILURE)|ALTNAME_INVALID/;
