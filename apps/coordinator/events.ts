// What a run tells its audience (a terminal, a log, a report) while it goes on.
import type { Selection } from "../../protocols/index.ts";
import type { Score } from "../../runtime/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";

/** Something that happened in a run. */
export type RunEvent =
  | { readonly kind: "resumed"; readonly round: number; readonly attempt: number }
  | { readonly kind: "waiting"; readonly ready: number; readonly needed: number }
  | { readonly kind: "joining"; readonly deviceId: string }
  /** It fetches what it needs of the model. */
  | { readonly kind: "provisioning"; readonly deviceId: string }
  | {
      readonly kind: "refused";
      readonly deviceId: string;
      readonly code: string;
      readonly message: string;
      readonly hint?: string;
    }
  | {
      readonly kind: "assigned";
      readonly deviceId: string;
      readonly board: string;
      readonly selection: Selection;
    }
  /** From this round on a device does something else. */
  | {
      readonly kind: "revised";
      readonly deviceId: string;
      readonly round: number;
      readonly from: string;
      readonly to: string;
      readonly because: string;
    }
  /** A device's last round speaks against what it does, and nothing else fits it. */
  | { readonly kind: "kept"; readonly deviceId: string; readonly because: string }
  | { readonly kind: "gone"; readonly deviceId: string }
  | {
      readonly kind: "round";
      readonly round: number;
      readonly attempt: number;
      readonly rounds: number;
      /** The devices that are asked, where not everyone is; the others are idle. */
      readonly asked?: readonly string[];
    }
  | {
      readonly kind: "started";
      readonly deviceId: string;
      readonly lane: number;
      readonly protocol: string;
    }
  | { readonly kind: "progress"; readonly deviceId: string; readonly messages: number }
  | { readonly kind: "reported"; readonly deviceId: string; readonly report: DeviceRoundReport }
  | { readonly kind: "lost"; readonly deviceId: string; readonly reason: string }
  /** Too many rounds were folded while the device trained: its update does not count. */
  | { readonly kind: "dropped"; readonly deviceId: string; readonly staleness: number }
  | { readonly kind: "reopened"; readonly round: number; readonly reason: string }
  | {
      readonly kind: "closed";
      readonly round: number;
      readonly accepted: readonly string[];
      readonly seconds: number;
    }
  /** What the global model is worth after a round; comes while the next one goes on. */
  | (Score & { readonly kind: "scored"; readonly round: number })
  | (Score & { readonly kind: "finished" });

/** Takes events; must not throw. */
export type OnEvent = (event: RunEvent) => void;
