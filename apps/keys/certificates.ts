// X.509 certificates of a private authority (RFC 5280), by @peculiar/x509 over Node's WebCrypto: the one door to that library.
import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";
import { isIP } from "node:net";
import * as x509 from "@peculiar/x509";

/** A certificate and its private key as PEM texts. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

/** What a certificate says of its holder. */
export interface Holder {
  /** Common name: a device's id, `coordinator`, or what people call a server. */
  readonly name: string;
  /** DNS names and IP addresses that a server is reached by; none for a client. */
  readonly hosts?: readonly string[];
}

/** A certificate that must not be believed any more. */
export interface Revocation {
  /** Hexadecimal. */
  readonly serial: string;
  readonly at: Date;
}

const curve = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

const dayMs = 24 * 60 * 60 * 1000;

/** An authority outlives the boards of a testbed; moving all of them to another one takes a walk to each. */
const authorityDays = 3650;

/** Renewed on the occasion of a visit; below the 825 days beyond which some systems refuse a server's certificate. */
const holderDays = 820;

/** The clock of whoever issues may be ahead of the boards'. */
const slackMs = dayMs;

type Provider = Extract<Parameters<typeof x509.cryptoProvider.set>[0], object>;

x509.cryptoProvider.set(webcrypto as Provider);

/** A new authority, which may sign holders and revocation lists and no further authority. */
export async function createAuthority(name: string, now = new Date()): Promise<KeyPair> {
  const keys = await newKeys();
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: [{ CN: [name] }],
    notBefore: new Date(now.getTime() - slackMs),
    notAfter: new Date(now.getTime() + authorityDays * dayMs),
    signingAlgorithm: curve,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: pem("CERTIFICATE", cert.rawData), key: await privatePem(keys.privateKey) };
}

/** A certificate for a server (with hosts) or a client (without); its serial number is hexadecimal. */
export async function issueCertificate(
  authority: KeyPair,
  { name, hosts }: Holder,
  now = new Date(),
): Promise<KeyPair & { readonly serial: string }> {
  const issuer = new x509.X509Certificate(authority.cert);
  const keys = await newKeys();
  const serial = newSerial();
  const usage = hosts ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth;
  const names = (hosts ?? []).map((host) => {
    return { type: isIP(host) === 0 ? ("dns" as const) : ("ip" as const), value: host };
  });
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    issuer: issuer.subjectName,
    subject: [{ CN: [name] }],
    notBefore: new Date(now.getTime() - slackMs),
    notAfter: new Date(Math.min(now.getTime() + holderDays * dayMs, issuer.notAfter.getTime())),
    signingAlgorithm: curve,
    publicKey: keys.publicKey,
    signingKey: await signingKey(authority),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([usage]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
    ],
  });
  return { cert: pem("CERTIFICATE", cert.rawData), key: await privatePem(keys.privateKey), serial };
}

/** The list of what is revoked. It is valid as long as the authority: a revocation writes a new one at once. */
export async function createRevocationList(
  authority: KeyPair,
  { number, revocations }: { readonly number: number; readonly revocations: readonly Revocation[] },
  now = new Date(),
): Promise<string> {
  const issuer = new x509.X509Certificate(authority.cert);
  const list = await x509.X509CrlGenerator.create({
    issuer: issuer.subjectName,
    thisUpdate: new Date(now.getTime() - slackMs),
    nextUpdate: issuer.notAfter,
    signingAlgorithm: curve,
    signingKey: await signingKey(authority),
    entries: revocations.map(({ serial, at }) => {
      return {
        serialNumber: serial,
        revocationDate: at,
        reason: x509.X509CrlReason.cessationOfOperation,
      };
    }),
    extensions: [
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      // RFC 5280 section 5.2.3: an INTEGER that rises.
      new x509.Extension("2.5.29.20", false, derInteger(number)),
    ],
  });
  return pem("X509 CRL", list.rawData);
}

/** Serial numbers on a list, hexadecimal. */
export function serialsOf(list: string): readonly string[] {
  return new x509.X509Crl(list).entries.map(({ serialNumber }) => serialNumber.toLowerCase());
}

function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(curve, true, ["sign", "verify"]);
}

/** 16 random bytes, the first bit of them clear: RFC 5280 section 4.1.2.2 wants a positive number. */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = 0x40 | ((bytes[0] ?? 0) & 0x3f);
  return bytes.toString("hex");
}

async function signingKey({ key }: KeyPair): Promise<webcrypto.CryptoKey> {
  const der = Buffer.from(key.replace(/-----[A-Z ]+-----|\s/g, ""), "base64");
  return await webcrypto.subtle.importKey("pkcs8", der, curve, false, ["sign"]);
}

async function privatePem(key: webcrypto.CryptoKey): Promise<string> {
  return pem("PRIVATE KEY", await webcrypto.subtle.exportKey("pkcs8", key));
}

/** RFC 7468. The library's own label of a revocation list is not the one that OpenSSL reads. */
function pem(label: "CERTIFICATE" | "PRIVATE KEY" | "X509 CRL", der: ArrayBuffer): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
}

function derInteger(value: number): Uint8Array {
  const hex = value.toString(16);
  const bytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex");
  const positive = (bytes[0] ?? 0) < 0x80 ? bytes : Buffer.concat([Uint8Array.of(0), bytes]);
  return Buffer.concat([Uint8Array.of(0x02, positive.byteLength), positive]);
}
