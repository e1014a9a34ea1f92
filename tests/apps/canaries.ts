// Looking for texts in what was captured, in every form in which a text could travel.
import { inflateRawSync } from "node:zlib";
import type { Envelope } from "../../broker/index.ts";
import type { Wiretap } from "./wiretap.ts";

/** The forms in which a text was found. */
export function findings(
  text: string,
  haystacks: readonly Buffer[],
  encode: (text: string) => number[],
): string[] {
  const forms = formsOf(text, encode);
  return Object.keys(forms).filter((form) =>
    haystacks.some((bytes) => bytes.includes(forms[form] as Buffer)),
  );
}

/** The raw bytes of each tap and every part of each message, inflated where it is deflated. */
export async function seenOnWire(taps: readonly Wiretap[]): Promise<Buffer[]> {
  const seen: Buffer[] = [];
  for (const tap of taps) {
    seen.push(tap.bytes());
    for (const envelope of await tap.envelopes()) seen.push(...partsOf(envelope));
  }
  return seen;
}

/** The header of a message as JSON, and its tensors and blobs. */
export function partsOf({ tensors, blobs, ...header }: Envelope): Buffer[] {
  const raw = [...[...tensors.values()].map(({ bytes }) => bytes), ...blobs.values()];
  return [Buffer.from(JSON.stringify(header)), ...raw.flatMap((bytes) => variants(bytes))];
}

/** Bytes as they are, and inflated if they can be. */
function variants(bytes: Uint8Array): Buffer[] {
  try {
    return [Buffer.from(bytes), inflateRawSync(bytes)];
  } catch {
    return [Buffer.from(bytes)];
  }
}

/** A text as characters, in the usual codes for them, and as token ids. */
function formsOf(text: string, encode: (text: string) => number[]): Record<string, Buffer> {
  const base64 = [0, 1, 2].map((shift) => {
    // The first and last characters depend on what stands beside the text.
    const code = Buffer.from(`${"-".repeat(shift)}${text}`).toString("base64");
    return [`base64 at ${shift}`, Buffer.from(code.slice(4, -4))];
  });
  const tokens = encode(` ${text}`);
  return {
    utf8: Buffer.from(text),
    utf16: Buffer.from(text, "utf16le"),
    hex: Buffer.from(Buffer.from(text).toString("hex")),
    "tokens in JSON": Buffer.from(tokens.join(",")),
    "int16 tokens": Buffer.from(Uint16Array.from(tokens).buffer),
    "int32 tokens": Buffer.from(Int32Array.from(tokens).buffer),
    "int64 tokens": Buffer.from(BigInt64Array.from(tokens, BigInt).buffer),
    ...Object.fromEntries(base64),
  };
}
