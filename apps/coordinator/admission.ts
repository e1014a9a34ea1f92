// Whom a round has room for. Aggregators that need every update at once keep them all in memory, which the task limits: a
// device beyond that waits for a round in which another one has left.

/** The places of a round. */
export interface Admission {
  /** Whether the device has a place or gets one now. */
  takes(deviceId: string): boolean;
  /** Gives its place free. */
  leaves(deviceId: string): void;
}

/** So many places; `onRefused` is told once of each device that gets none. */
export function createAdmission(places: number, onRefused: (deviceId: string) => void): Admission {
  const taken = new Set<string>();
  const refused = new Set<string>();
  return {
    takes: (deviceId) => {
      if (taken.has(deviceId) || taken.size < places) {
        taken.add(deviceId);
        return true;
      }
      if (!refused.has(deviceId)) onRefused(deviceId);
      refused.add(deviceId);
      return false;
    },
    leaves: (deviceId) => void taken.delete(deviceId),
  };
}
