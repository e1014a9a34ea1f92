// The profile of this board: what its files tell, what it is handed to measure with, and for the rest a
// figure of the catalogue or a cautious estimate, labelled as such.
import { setTimeout as delay } from "node:timers/promises";
import { boardProfile } from "./boards.ts";
import { readMemoryLimits } from "./cgroup.ts";
import { deviceErrors } from "./errors.ts";
import { type HostFacts, hostFacts } from "./host.ts";
import { readIdentity } from "./identity.ts";
import { estimatedLink, estimateLink } from "./link.ts";
import { readPower } from "./power.ts";
import {
  readCores,
  readMaximumHertz,
  readMemory,
  readTemperatureCelsius,
  readThrottled,
} from "./processor.ts";
import type { DeviceProfile, Figure, LinkFigures } from "./profile.ts";
import { openSysroot, type Sysroot } from "./sysroot.ts";

/** Probes that this folder is handed because it knows neither the engine nor the network. */
export interface MeasureOptions {
  /** Folder in the place of "/": a mounted image, or a test's fixture. Only "/" is this machine. */
  readonly sysroot?: string;
  /** float32 FLOP/s of matrix products through the engine. Products in plain JavaScript are no measurement. */
  readonly measureGemm?: (signal?: AbortSignal) => Promise<number>;
  /** Execution providers the engine offers. */
  readonly probeProviders?: () => Promise<readonly string[]>;
  /** Rates and round trip to the broker. */
  readonly measureLink?: (signal?: AbortSignal) => Promise<LinkRates>;
  readonly signal?: AbortSignal;
}

/** What a link probe found. */
export interface LinkRates {
  readonly uplinkBitsPerSecond: number;
  readonly downlinkBitsPerSecond: number;
  readonly roundTripMs: number;
}

/**
 * Measures a board. Rates that no probe was handed for come from the catalogue when it knows the board, else they are estimated.
 * Throws `PROFILE_UNMEASURABLE` when memory or processors cannot be told, and what the probes throw.
 */
export async function measureProfile(options: MeasureOptions = {}): Promise<DeviceProfile> {
  const { sysroot: root = "/", probeProviders, signal } = options;
  const sysroot = openSysroot(root);
  const { model, ...identity } = await readIdentity(sysroot);
  const basics = await readBasics(sysroot, model);
  const known = identity.key === undefined ? undefined : boardProfile(identity.key);
  const temperature = await readTemperatureCelsius(sysroot);
  const throttled = await readThrottled(sysroot);
  signal?.throwIfAborted();
  const { gemmFlopsPerSecond, power } = await measureRate(sysroot, options, basics.cores, known);
  signal?.throwIfAborted();
  return {
    board: { ...identity, model: basics.model },
    memory: basics.memory,
    cores: measured(basics.cores),
    gemmFlopsPerSecond,
    link: await linkOf(sysroot, options, known),
    ...(power ? { power } : {}),
    ...(temperature === undefined ? {} : { temperatureCelsius: measured(temperature) }),
    ...(throttled === undefined ? {} : { throttled }),
    providers: (await probeProviders?.()) ?? ["cpu"],
  };
}

/** What changes on a board from round to round. */
export interface BoardState {
  /** Free and reclaimable memory, within the control group's limits. */
  readonly availableBytes?: number;
  readonly temperatureCelsius?: number;
  readonly throttled?: boolean;
}

/** Reads memory and heat of the board below `root`: a few files, no measurement. */
export async function readBoardState(root = "/"): Promise<BoardState> {
  const sysroot = openSysroot(root);
  const memory = await readMemory(sysroot);
  const limited = memory && (await withinLimits(sysroot, memory));
  const temperatureCelsius = await readTemperatureCelsius(sysroot);
  const throttled = await readThrottled(sysroot);
  return {
    ...(limited ? { availableBytes: limited.availableBytes.value } : {}),
    ...(temperatureCelsius === undefined ? {} : { temperatureCelsius }),
    ...(throttled === undefined ? {} : { throttled }),
  };
}

interface Basics {
  readonly model: string;
  readonly memory: DeviceProfile["memory"];
  readonly cores: number;
}

/** Model, memory and cores, from the files or, on this machine only, from the operating system. */
async function readBasics(sysroot: Sysroot, model: string | undefined): Promise<Basics> {
  const memory = await readMemory(sysroot);
  const cores = await readCores(sysroot);
  const complete = model !== undefined && memory !== undefined && cores !== undefined;
  const host = !complete && sysroot.path === "/" ? await hostFacts() : undefined;
  return {
    model: model ?? host?.model ?? "unknown board",
    memory: await withinLimits(sysroot, memory ?? host ?? unmeasurable(sysroot, "memory")),
    cores: cores ?? host?.cores ?? unmeasurable(sysroot, "processors"),
  };
}

async function withinLimits(
  sysroot: Sysroot,
  memory: Pick<HostFacts, "totalBytes" | "availableBytes">,
): Promise<DeviceProfile["memory"]> {
  const { limitBytes, headroomBytes = Number.POSITIVE_INFINITY } = await readMemoryLimits(sysroot);
  return {
    totalBytes: measured(memory.totalBytes),
    availableBytes: measured(Math.min(memory.availableBytes, headroomBytes)),
    ...(limitBytes === undefined || limitBytes >= memory.totalBytes
      ? {}
      : { limitBytes: measured(limitBytes) }),
  };
}

/** The matrix rate, and the board's power before and while it is measured. */
async function measureRate(
  sysroot: Sysroot,
  { measureGemm, signal }: MeasureOptions,
  cores: number,
  known: DeviceProfile | undefined,
): Promise<Pick<DeviceProfile, "gemmFlopsPerSecond" | "power">> {
  const idle = (await readPower(sysroot))?.totalWatts;
  const running = measureGemm?.(signal);
  const active = running && idle !== undefined ? await highestPower(sysroot, running) : undefined;
  const rate = await running;
  const gemmFlopsPerSecond =
    rate === undefined
      ? (known?.gemmFlopsPerSecond ?? (await estimateRate(sysroot, cores)))
      : measured(rate);
  if (idle === undefined)
    return { gemmFlopsPerSecond, ...(known?.power && { power: known.power }) };
  const activeWatts = active === undefined ? known?.power?.activeWatts : measured(active);
  return {
    gemmFlopsPerSecond,
    power: { idleWatts: measured(idle), ...(activeWatts && { activeWatts }) },
  };
}

/** The highest power read until `work` settles; at least one reading. */
async function highestPower(sysroot: Sysroot, work: Promise<unknown>): Promise<number | undefined> {
  const done = new AbortController();
  const settled = work.then(
    () => done.abort(),
    () => done.abort(),
  );
  let highest: number | undefined;
  do {
    const watts = (await readPower(sysroot))?.totalWatts;
    if (watts !== undefined) highest = Math.max(highest ?? 0, watts);
    await delay(50, undefined, { signal: done.signal }).catch(() => undefined);
  } while (!done.signal.aborted);
  await settled;
  return highest;
}

/** Two FLOPs a cycle and core: half of what the oldest cores of the catalogue reach; 1 GHz when the clock is unknown. */
async function estimateRate(sysroot: Sysroot, cores: number): Promise<Figure> {
  const hertz = (await readMaximumHertz(sysroot)) ?? 1e9;
  return { value: 2 * cores * hertz, origin: "estimated" };
}

async function linkOf(
  sysroot: Sysroot,
  { measureLink, signal }: MeasureOptions,
  known: DeviceProfile | undefined,
): Promise<LinkFigures> {
  const rates = await measureLink?.(signal);
  if (rates) {
    return {
      uplinkBitsPerSecond: measured(rates.uplinkBitsPerSecond),
      downlinkBitsPerSecond: measured(rates.downlinkBitsPerSecond),
      roundTripMs: measured(rates.roundTripMs),
    };
  }
  // 10 Mbit/s and 20 ms: a slow shared uplink, so that an unknown link is not planned beyond its means.
  return (await estimateLink(sysroot)) ?? known?.link ?? estimatedLink(10e6, 20);
}

function unmeasurable(sysroot: Sysroot, what: string): never {
  throw deviceErrors.error("PROFILE_UNMEASURABLE", `cannot tell the ${what} of ${sysroot.path}`, {
    hint: "A Linux root has /proc/meminfo and /proc/cpuinfo; or declare a profile by hand.",
  });
}

function measured(value: number): Figure {
  return { value, origin: "measured" };
}
