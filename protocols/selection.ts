// Which framework each device uses, decided from its profile and budget: a pure function that
// explains every choice with the figure and the limit.

/** What one round costs a device. */
export interface RoundCost {
  /** Training memory above the idle device process. */
  readonly peakMemoryBytes: number;
  readonly uplinkBytes: number;
  readonly downlinkBytes: number;
  readonly flops: number;
  /** Exchanges the device waits for. */
  readonly roundTrips: number;
}

/** What a device does in the rounds to come. */
export interface Assignment {
  readonly deviceId: string;
  /** Name and version of the protocol. */
  readonly protocol: string;
  readonly protocolVersion: number;
  /** Blocks on the device; split only. */
  readonly cutLayer?: number;
  /** One line for people: why this one. */
  readonly reason: string;
}
