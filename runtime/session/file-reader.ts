// Tensors that lie in files, read for a run into memory that the next run uses again: how one graph serves every
// block of a model whose weights would not fit beside each other.
import { closeSync, openSync, readSync } from "node:fs";
import type { FileTensor } from "../tensor.ts";

/** Reads tensors from files. One per worker thread, which is idle while it reads. */
export interface FileReader {
  /**
   * Elements of a place in a file, in memory that the next read of the same name and length fills anew; a place that
   * is there already is not read again. Throws when the file ends too early.
   */
  read(name: string, place: FileTensor): Float32Array | Int8Array;
  /** Closes the files and lets go of the memory; reading opens them again. */
  close(): void;
}

/** A reader without open files. */
export function fileReader(): FileReader {
  const descriptors = new Map<string, number>();
  const slots = new Map<string, Slot>();

  const open = (file: string): number => {
    const known = descriptors.get(file);
    if (known !== undefined) return known;
    const descriptor = openSync(file, "r");
    descriptors.set(file, descriptor);
    return descriptor;
  };
  return {
    read: (name, place) => {
      const key = `${name} ${place.dtype} ${place.lengthBytes}`;
      const slot = slots.get(key) ?? { bytes: new Uint8Array(place.lengthBytes), holds: undefined };
      slots.set(key, slot);
      const { holds } = slot;
      if (holds?.file !== place.file || holds.offsetBytes !== place.offsetBytes) {
        slot.holds = undefined;
        fill(slot.bytes, open(place.file), name, place);
        slot.holds = place;
      }
      const { buffer } = slot.bytes;
      return place.dtype === "float32" ? new Float32Array(buffer) : new Int8Array(buffer);
    },
    close: () => {
      for (const descriptor of descriptors.values()) closeSync(descriptor);
      descriptors.clear();
      slots.clear();
    },
  };
}

interface Slot {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What was read last; undefined after a read that failed. */
  holds: FileTensor | undefined;
}

function fill(bytes: Uint8Array, descriptor: number, name: string, place: FileTensor): void {
  let filled = 0;
  while (filled < bytes.length) {
    const wanted = bytes.length - filled;
    const got = readSync(descriptor, bytes, filled, wanted, place.offsetBytes + filled);
    if (got === 0) {
      throw new Error(`${name} needs ${bytes.length} bytes of ${place.file}, got ${filled}`);
    }
    filled += got;
  }
}
