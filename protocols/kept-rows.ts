// Rows of texts that an end of a protocol keeps from one lane of a device to the next. They may be many megabytes, so they are
// apart from the rest of what is kept, and each lane's stay until a later one is accepted.
import type { EncodedTensor } from "./encoding/encoded.ts";
import type { RoundInfo } from "./protocol.ts";

/** What a lane leaves to those behind it. */
export interface KeptRows {
  /** Finite numbers by name. */
  readonly fields: Readonly<Record<string, number>>;
  /** In float32 and bf16. */
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
}

/** Where one device's lanes leave rows. */
export interface RowKeeper {
  /** What this lane left; undefined where it left nothing. */
  read(lane: number): Promise<KeptRows | undefined>;
  /** Keeps what this lane leaves, on the disk once it resolves. What lanes before it left is forgotten, all but the accepted one's. */
  write(rows: KeptRows, of: Pick<RoundInfo, "lane" | "acceptedLane">): Promise<void>;
}

/** A keeper in memory, for federations within one process. */
export function rowsInMemory(): RowKeeper {
  const kept = new Map<number, KeptRows>();
  return {
    read: async (lane) => kept.get(lane),
    write: async (rows, { lane, acceptedLane }) => {
      for (const former of kept.keys())
        if (former < lane && former !== acceptedLane) kept.delete(former);
      // The map is the lane's own, which may go on.
      kept.set(lane, { ...rows, tensors: new Map(rows.tensors) });
    },
  };
}
