// Numbers with units, as people write them ("48 MB", "2.5 Mbit/s", "90 s") and as reports print them.

/** What a figure is counted in. */
export type Unit = keyof typeof scales;

/** A number of `unit`, or undefined when the text is no such quantity. Case matters only between MB and Mbit. */
export function parseQuantity(text: string, unit: Unit): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([^\d\s].*?)?\s*$/i.exec(text);
  if (!match) return undefined;
  const [, digits = "", name] = match;
  if (name === undefined) return Number(digits);
  const factor = Object.entries(scales[unit]).find(
    ([known]) => known.toLowerCase() === name.toLowerCase(),
  );
  return factor ? Number(digits) * factor[1] : undefined;
}

/** The names a unit may be written with, for error texts. */
export function unitNames(unit: Unit): string {
  return Object.keys(scales[unit]).join(", ");
}

/** A figure for people, in the largest decimal unit that leaves at least one before the point: "86.2 MB". */
export function formatQuantity(value: number, unit: Unit): string {
  const steps = Object.entries(scales[unit]).filter(([name]) => printed.has(name));
  const fitting = steps.filter(([, factor]) => Math.abs(value) >= factor);
  const [name, factor] = fitting.at(-1) ?? steps[0] ?? ["", 1];
  const scaled = value / factor;
  const digits = factor === 1 && Number.isInteger(value) ? 0 : scaled < 10 ? 2 : 1;
  return `${scaled.toFixed(digits)} ${name}`;
}

// Ascending within each unit. A number without a name counts in the unit itself (factor 1).
const scales = {
  bytes: { B: 1, kB: 1e3, KiB: 2 ** 10, MB: 1e6, MiB: 2 ** 20, GB: 1e9, GiB: 2 ** 30 },
  bitsPerSecond: { "bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9 },
  flops: { FLOP: 1, kFLOP: 1e3, MFLOP: 1e6, GFLOP: 1e9, TFLOP: 1e12, PFLOP: 1e15 },
  flopsPerSecond: {
    "FLOP/s": 1,
    "kFLOP/s": 1e3,
    "MFLOP/s": 1e6,
    "GFLOP/s": 1e9,
    "TFLOP/s": 1e12,
  },
  seconds: { ms: 1e-3, s: 1, min: 60, h: 3600 },
  milliseconds: { ms: 1, s: 1e3 },
  joules: { J: 1, kJ: 1e3, Wh: 3600 },
  watts: { mW: 1e-3, W: 1 },
  cores: { cores: 1, core: 1 },
} as const satisfies Record<string, Readonly<Record<string, number>>>;

// Reports keep to decimal units, and to seconds however long.
const printed: ReadonlySet<string> = new Set([
  ...["B", "kB", "MB", "GB"],
  ...["bit/s", "kbit/s", "Mbit/s", "Gbit/s"],
  ...["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"],
  ...["FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s"],
  ...["ms", "s", "J", "kJ", "mW", "W", "cores"],
]);
