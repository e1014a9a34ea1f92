// What the coordinator remembers of each split device from one round to the next. It lives in memory: after a restart, at another
// cut or when an attempt is repeated both ends start with nothing, so equal attempts give equal bytes.
import type { Task } from "../task.ts";
import { crossingsOf } from "./crossing.ts";
import type { Cuts } from "./cut.ts";
import { type DeviceMemory, emptyMemory } from "./incoming.ts";

/** A device's memory as a lane gets it. */
export interface RememberedDevice {
  readonly memory: DeviceMemory;
  /** The next round's lane goes on from this memory only if the device delivered. */
  readonly onDelivery: () => void;
}

/** The memories of a coordinator end. */
export interface DeviceMemories {
  open(deviceId: string, cuts: Cuts, round: number): RememberedDevice;
}

/** No device is known yet. */
export function deviceMemories(task: Task): DeviceMemories {
  const entries = new Map<string, Entry>();
  return {
    open: (deviceId, cuts, round) => {
      const last = entries.get(deviceId);
      const goesOn = last?.isDelivered && last.round < round && last.cutLayer === cuts.cutLayer;
      const memory = goesOn ? last.memory : emptyMemory(task, crossingsOf(task, cuts));
      const entry: Entry = { memory, round, cutLayer: cuts.cutLayer, isDelivered: false };
      entries.set(deviceId, entry);
      return {
        memory,
        onDelivery: () => {
          entry.isDelivered = true;
        },
      };
    },
  };
}

interface Entry {
  readonly memory: DeviceMemory;
  readonly round: number;
  readonly cutLayer: number;
  isDelivered: boolean;
}
