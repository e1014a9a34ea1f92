// Memory, processors, clocks and heat of a board from `/proc` and `/sys`.
import { readCpuQuota } from "./cgroup.ts";
import type { Sysroot } from "./sysroot.ts";

/** `MemTotal` and `MemAvailable` in bytes; undefined without a readable `/proc/meminfo`. */
export async function readMemory(
  sysroot: Sysroot,
): Promise<{ readonly totalBytes: number; readonly availableBytes: number } | undefined> {
  const text = (await sysroot.text("/proc/meminfo")) ?? "";
  const kibibytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1]);
  const total = kibibytes("MemTotal");
  if (!(total > 0)) return undefined;
  // Kernels before 3.14 have no MemAvailable; MemFree is its lower bound.
  const available = [kibibytes("MemAvailable"), kibibytes("MemFree"), total].find((n) => n >= 0);
  return { totalBytes: total * 1024, availableBytes: (available ?? total) * 1024 };
}

/** Processors this process may use: those there are, those it is allowed on, and what the quota leaves. */
export async function readCores(sysroot: Sysroot): Promise<number | undefined> {
  const cpuinfo = (await sysroot.text("/proc/cpuinfo")) ?? "";
  const status = (await sysroot.text("/proc/self/status")) ?? "";
  const counts = [
    cpuinfo.match(/^processor\s*:/gm)?.length,
    countOf(/^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]),
    await readCpuQuota(sysroot),
  ];
  const known = positive(counts);
  return known.length > 0 ? Math.min(...known) : undefined;
}

/** The highest clock that the governor may choose now, the fastest cluster's. */
export async function readMaximumHertz(sysroot: Sysroot): Promise<number | undefined> {
  const cpus = await sysroot.glob("/sys/devices/system/cpu", /^cpu\d+$/);
  const kilohertz = await Promise.all(
    cpus.map((cpu) => sysroot.number(`${cpu}/cpufreq/scaling_max_freq`)),
  );
  const known = positive(kilohertz);
  return known.length > 0 ? Math.max(...known) * 1000 : undefined;
}

/** The hottest plausible thermal zone; sensors of unpowered parts report values such as -256 °C. */
export async function readTemperatureCelsius(sysroot: Sysroot): Promise<number | undefined> {
  const zones = await sysroot.glob("/sys/class/thermal", /^thermal_zone\d+$/);
  const readings = await Promise.all(zones.map((zone) => sysroot.number(`${zone}/temp`)));
  const plausible = readings
    .map((millidegrees) => (millidegrees ?? Number.NaN) / 1000)
    .filter((celsius) => celsius >= -40 && celsius <= 150);
  return plausible.length > 0 ? Math.max(...plausible) : undefined;
}

/**
 * Whether the processor is held back now: the Raspberry Pi firmware's flags (bits 0-3: under-voltage, capped,
 * throttled, soft heat limit), else any processor cooling device that is at work. Undefined when neither is there.
 */
export async function readThrottled(sysroot: Sysroot): Promise<boolean | undefined> {
  const flags = await sysroot.text("/sys/devices/platform/soc/soc:firmware/get_throttled");
  if (flags !== undefined && /^(0x)?[0-9a-f]+$/i.test(flags)) {
    return (Number.parseInt(flags, 16) & 0xf) !== 0;
  }
  const devices = await sysroot.glob("/sys/class/thermal", /^cooling_device\d+$/);
  const states = await Promise.all(
    devices.map(async (device) => {
      const type = (await sysroot.text(`${device}/type`)) ?? "";
      return /cpufreq|processor/i.test(type) ? sysroot.number(`${device}/cur_state`) : undefined;
    }),
  );
  const known = states.filter((state) => state !== undefined);
  return known.length > 0 ? known.some((state) => state > 0) : undefined;
}

function positive(numbers: readonly (number | undefined)[]): number[] {
  return numbers.filter((value) => value !== undefined).filter((value) => value > 0);
}

/** How many processors a kernel list such as "0-3,8" names. */
function countOf(list: string | undefined): number | undefined {
  if (list === undefined || !/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(list)) return undefined;
  return list.split(",").reduce((sum, range) => {
    const [from = 0, to = from] = range.split("-").map(Number);
    return sum + to - from + 1;
  }, 0);
}
