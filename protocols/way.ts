// In which way a device uses a protocol: what an assignment says beside the protocol's name.
import type { ExecutionMode } from "../runtime/index.ts";
import type { EncodingName } from "./encoding/encoded.ts";

/** Most bytes that a round's messages may take each way, where a protocol fits them to the device's link. */
export interface Allowance {
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
}

/** What may differ from device to device within one protocol; what is absent is as the task says. */
export interface Way {
  /** Blocks on the device; one of the protocol's `cutLayers`. */
  readonly cutLayer?: number;
  /** How the device executes its model; whole-float32 when absent. */
  readonly mode?: ExecutionMode;
  /** Rank of the device's adapter factors; `adapter.rank` when absent. */
  readonly rank?: number;
  /** How the device's updates are narrowed; `full.encoding` when absent. */
  readonly encoding?: EncodingName;
  /** What the protocol's `allowance` gives the device; absent where messages do not adapt. */
  readonly allowance?: Allowance;
}

/** The way alone, of whatever holds one: only the fields that are there. */
export function wayOf({ cutLayer, mode, rank, encoding, allowance }: Way): Way {
  return {
    ...(cutLayer === undefined ? {} : { cutLayer }),
    ...(mode === undefined ? {} : { mode }),
    ...(rank === undefined ? {} : { rank }),
    ...(encoding === undefined ? {} : { encoding }),
    ...(allowance === undefined ? {} : { allowance }),
  };
}

/** How people read a protocol and a way, equal for equal ones: "full", "full (blocks-int8)", "split (cut 1)". */
export function labelOf(used: Way & { readonly protocol: string }): string {
  const { protocol, cutLayer, mode, rank, encoding } = used;
  const details = [
    ...(cutLayer === undefined ? [] : [`cut ${cutLayer}`]),
    ...(mode === undefined ? [] : [mode]),
    ...(rank === undefined ? [] : [`rank ${rank}`]),
    ...(encoding === undefined ? [] : [encoding]),
  ];
  return details.length === 0 ? protocol : `${protocol} (${details.join(", ")})`;
}
