// Numbers of any few bits behind each other, least significant bit first.
import { protocolErrors } from "../errors.ts";

/** Fills bytes whose length is known beforehand. */
export interface BitWriter {
  readonly bytes: Uint8Array;
  /** Adds the lowest `bits` (0 to 32) of a whole number. */
  write(value: number, bits: number): void;
}

/** Takes foreign bytes apart. */
export interface BitReader {
  /** The next `bits` (0 to 32) as a whole number; throws `PROTOCOL_PAYLOAD_INVALID` behind the end. */
  read(bits: number): number;
  /** Throws `PROTOCOL_PAYLOAD_INVALID` unless all that is left is the padding of the last byte. */
  end(): void;
}

/** Room for `bits` bits, zeros until they are written. */
export function bitWriter(bits: number): BitWriter {
  const bytes = new Uint8Array(Math.ceil(bits / 8));
  let at = 0;
  return {
    bytes,
    write: (value, count) => {
      let rest = value;
      for (let left = count; left > 0; ) {
        const taken = Math.min(left, 8 - (at & 7));
        const part = rest & ((1 << taken) - 1);
        bytes[at >>> 3] = (bytes[at >>> 3] as number) | (part << (at & 7));
        rest = rest >>> taken;
        left -= taken;
        at += taken;
      }
    },
  };
}

/** Reads from the first bit on. */
export function bitReader(bytes: Uint8Array): BitReader {
  const length = 8 * bytes.length;
  let at = 0;
  return {
    read: (count) => {
      if (at + count > length) throw cut(`end within a number, after ${bytes.length} bytes`);
      let value = 0;
      for (let done = 0; done < count; ) {
        const taken = Math.min(count - done, 8 - (at & 7));
        const part = ((bytes[at >>> 3] as number) >>> (at & 7)) & ((1 << taken) - 1);
        value += part * 2 ** done;
        done += taken;
        at += taken;
      }
      return value;
    },
    end: () => {
      const left = length - at;
      if (left >= 8) throw cut(`have ${Math.floor(left / 8)} of ${bytes.length} bytes too many`);
    },
  };
}

function cut(problem: string): Error {
  return protocolErrors.error("PROTOCOL_PAYLOAD_INVALID", `logits: the packed bytes ${problem}`);
}
