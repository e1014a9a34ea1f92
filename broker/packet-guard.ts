// Reads only the fixed headers of an MQTT byte stream (MQTT 3.1.1 section 2.2) and refuses a packet by its
// declared length, before the parser collects its bytes: aedes has no limit of its own and would hold 256 MB.

import type { Duplex } from "node:stream";

/** Sees every chunk of one connection, in order. */
export interface PacketGuard {
  /** Why the connection must end, or undefined. */
  inspect(chunk: Uint8Array): string | undefined;
}

/** A guard for one connection; `limit` gives the most bytes a packet may declare at the moment. */
export function createPacketGuard(limit: () => number): PacketGuard {
  // Bytes of the current packet's body still to come; undefined while in its header.
  let bodyBytes: number | undefined;
  let length = 0;
  let headerBytes = 0;
  const header = (byte: number): string | undefined => {
    headerBytes += 1;
    if (headerBytes === 1) {
      return undefined;
    }
    length += (byte & 0x7f) * 0x80 ** (headerBytes - 2);
    if (length > limit()) {
      return `a packet of at least ${length} bytes exceeds the limit of ${limit()}`;
    }
    if (byte < 0x80) {
      bodyBytes = length;
      length = 0;
      headerBytes = 0;
    } else if (headerBytes === 5) {
      return "a packet length of more than four bytes";
    }
    return undefined;
  };
  return {
    inspect: (chunk) => {
      let offset = 0;
      while (offset < chunk.byteLength) {
        if (bodyBytes !== undefined && bodyBytes > 0) {
          const skipped = Math.min(bodyBytes, chunk.byteLength - offset);
          bodyBytes -= skipped;
          offset += skipped;
          continue;
        }
        bodyBytes = undefined;
        const refusal = header(chunk[offset] ?? 0);
        if (refusal !== undefined) {
          return refusal;
        }
        offset += 1;
      }
      return undefined;
    },
  };
}

/** Puts a guard between `stream` and whoever calls its `read`; what is refused destroys it. */
export function guardStream(stream: Duplex, limit: () => number): void {
  const guard = createPacketGuard(limit);
  const read = stream.read.bind(stream);
  stream.read = (size?: number) => {
    const chunk = read(size);
    const refusal = chunk === null ? undefined : guard.inspect(chunk);
    if (refusal === undefined) {
      return chunk;
    }
    stream.destroy(new Error(refusal));
    return null;
  };
}
