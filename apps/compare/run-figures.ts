// One federation in figures, from its journal. Pure; every measured figure was journaled by the run itself.
import type { DeviceProfile } from "../../devices/index.ts";
import type { DeviceRoundReport } from "../control-messages.ts";
import type { JournalRecord } from "../coordinator/journal.ts";
import { acceptedRecords, scoredRounds } from "../report/run-summary.ts";
import {
  type NetworkLink,
  networkLinks,
  type RoundFigures,
  type SeedFigures,
} from "./comparison.ts";
import { scoreIn } from "./score.ts";
import { meanOf } from "./statistics.ts";

/** What a federation left. */
export interface FinishedRun {
  readonly seed: number;
  readonly runFolder: string;
  readonly records: readonly JournalRecord[];
  /** What each device declared, by id. */
  readonly profiles: Readonly<Record<string, DeviceProfile>>;
}

/** A device's part of a round. */
interface DeviceRound {
  readonly report: DeviceRoundReport;
  /** Exchanges it waited for, as the protocol counts them. */
  readonly roundTrips: number;
  readonly profile: DeviceProfile | undefined;
}

/** The figures of a run with at least one round. */
export function figuresOf({ seed, runFolder, records, profiles }: FinishedRun): SeedFigures {
  const { lanes, reports } = acceptedRecords(records);
  const laneOf = ({ deviceId, lane }: { readonly deviceId: string; readonly lane: number }) =>
    lanes.find((one) => one.deviceId === deviceId && one.lane === lane);
  const parts = reports.map((record) => {
    const lane = laneOf(record);
    const roundTrips = lane?.estimate?.roundTrips ?? 0;
    const { report } = record;
    return { round: lane?.round, report, roundTrips, profile: profiles[record.deviceId] };
  });
  const rounds = scoredRounds(records).map((finished) => {
    const own = parts.filter(({ round }) => round === finished.closed.round);
    return roundFigures(finished, own);
  });
  const mean = (read: (report: DeviceRoundReport) => number) =>
    meanOf(parts.map(({ report }) => read(report)));
  const joules = meanOfAll(parts.map(estimatedJoules));
  return {
    seed,
    runFolder,
    score: rounds.at(-1)?.score ?? Number.NaN,
    rounds,
    devices: Object.fromEntries(
      lanes.map(({ deviceId, assignment }) => [deviceId, assignment.protocol]),
    ),
    uplinkBytesPerDeviceRound: mean(({ uplinkBytes }) => uplinkBytes),
    downlinkBytesPerDeviceRound: mean(({ downlinkBytes }) => downlinkBytes),
    rawBytesPerDeviceRound: mean((report) => report.rawUplinkBytes + report.rawDownlinkBytes),
    flopsPerDeviceRound: mean(({ flops }) => flops),
    peakMemoryBytes: Math.max(...parts.map(({ report }) => report.peakMemoryBytes)),
    secondsPerRound: meanOf(rounds.map(({ seconds }) => seconds)),
    secondsOnLink: networkLinks.map((_, i) =>
      rounds.reduce((sum, { secondsOnLink }) => sum + (secondsOnLink[i] ?? 0), 0),
    ),
    ...(joules === undefined ? {} : { estimatedJoulesPerDeviceRound: joules }),
  };
}

/** Seconds that bytes and exchanges take on a link: bytes one after another, each exchange a round trip. */
function transferSeconds(
  { bytes, roundTrips }: { readonly bytes: number; readonly roundTrips: number },
  { bitsPerSecond, roundTripSeconds }: Omit<NetworkLink, "name">,
): number {
  return (8 * bytes) / bitsPerSecond + roundTrips * roundTripSeconds;
}

/**
 * Seconds of a round whose devices are each on a link of their own. The slowest device's work and transfer, and what
 * the round took beside its slowest device (opening, folding): devices compute and send at once, the
 * coordinator waits for all.
 */
export function secondsOn(
  link: NetworkLink,
  seconds: number,
  devices: readonly Pick<DeviceRound, "report" | "roundTrips">[],
): number {
  const slowest = Math.max(0, ...devices.map(({ report }) => report.trainSeconds));
  const onLink = devices.map(({ report, roundTrips }) => {
    const bytes = report.uplinkBytes + report.downlinkBytes;
    return report.trainSeconds + transferSeconds({ bytes, roundTrips }, link);
  });
  return Math.max(0, ...onLink) + Math.max(0, seconds - slowest);
}

type ScoredRound = ReturnType<typeof scoredRounds>[number];

function roundFigures(
  { closed, scored }: ScoredRound,
  devices: readonly DeviceRound[],
): RoundFigures {
  const { round, seconds } = closed;
  const mean = (read: (report: DeviceRoundReport) => number) =>
    meanOf(devices.map(({ report }) => read(report)));
  const joules = meanOfAll(devices.map(estimatedJoules));
  return {
    round,
    score: scoreIn(scored).value,
    devices: devices.length,
    seconds,
    uplinkBytes: mean(({ uplinkBytes }) => uplinkBytes),
    downlinkBytes: mean(({ downlinkBytes }) => downlinkBytes),
    rawUplinkBytes: mean(({ rawUplinkBytes }) => rawUplinkBytes),
    rawDownlinkBytes: mean(({ rawDownlinkBytes }) => rawDownlinkBytes),
    flops: mean(({ flops }) => flops),
    peakMemoryBytes: Math.max(...devices.map(({ report }) => report.peakMemoryBytes)),
    secondsOnLink: networkLinks.map((link) => secondsOn(link, seconds, devices)),
    ...(joules === undefined ? {} : { estimatedJoules: joules }),
  };
}

/** By the declared board: the seconds of work and transfer at its rates, at its active power throughout. */
function estimatedJoules({ report, roundTrips, profile }: DeviceRound): number | undefined {
  const watts = profile?.power?.activeWatts?.value;
  if (!profile || watts === undefined) return undefined;
  const { uplinkBitsPerSecond, downlinkBitsPerSecond, roundTripMs } = profile.link;
  const roundTripSeconds = roundTripMs.value / 1000;
  const up = { bitsPerSecond: uplinkBitsPerSecond.value, roundTripSeconds };
  const down = { bitsPerSecond: downlinkBitsPerSecond.value, roundTripSeconds };
  const seconds =
    report.flops / profile.gemmFlopsPerSecond.value +
    transferSeconds({ bytes: report.uplinkBytes, roundTrips }, up) +
    transferSeconds({ bytes: report.downlinkBytes, roundTrips: 0 }, down);
  return seconds * watts;
}

/** Undefined unless every value is there. */
function meanOfAll(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length < values.length || known.length === 0 ? undefined : meanOf(known);
}
