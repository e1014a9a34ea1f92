// What the coordinator remembers of each split device from one round to the next. It lives in memory: after a restart, at another
// cut or behind a lane that was not accepted both ends start with nothing, so equal attempts give equal bytes.
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { crossingsOf } from "./crossing.ts";
import type { Cuts } from "./cut.ts";
import { type DeviceMemory, emptyMemory } from "./incoming.ts";

/** The memories of a coordinator end. */
export interface DeviceMemories {
  /** What the lane that begins goes on from: what the device's accepted lane left, or nothing. */
  open(deviceId: string, cuts: Cuts, info: RoundInfo): DeviceMemory;
}

/** No device is known yet; one that has not begun a lane for some rounds is forgotten. */
export function deviceMemories(task: Task): DeviceMemories {
  const entries = new Map<string, Entry>();
  const forgetBefore = (round: number) => {
    for (const [deviceId, entry] of entries) if (entry.round < round) entries.delete(deviceId);
  };
  return {
    open: (deviceId, cuts, { round, lane, acceptedLane }) => {
      forgetBefore(round - roundsRemembered(task));
      const last = entries.get(deviceId);
      const goesOn = last?.lane === acceptedLane && last.cutLayer === cuts.cutLayer;
      const memory = goesOn ? last.memory : emptyMemory(task, crossingsOf(task, cuts));
      entries.set(deviceId, { memory, round, lane, cutLayer: cuts.cutLayer });
      return memory;
    },
  };
}

/** Ten, or as many as it takes until a device that a share of rounds asks has been asked about ten times. */
function roundsRemembered({ cohort }: Task): number {
  return Math.ceil(10 / cohort.fraction);
}

interface Entry {
  readonly memory: DeviceMemory;
  readonly round: number;
  readonly lane: number;
  readonly cutLayer: number;
}
