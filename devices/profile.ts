// What a board is, in figures that say where they come from, and what its owner lets Trifold use of it.
// Both arrive from foreign hands (a device's announcement, a person's file), so both have a parser.
import { z } from "zod";
import { type DeviceErrorCode, deviceErrors } from "./errors.ts";
import { parseQuantity, type Unit, unitNames } from "./units.ts";

/** Where a figure comes from: read or timed on this board, stated by a person or catalogue, or derived from other figures. */
export type FigureOrigin = "measured" | "declared" | "estimated";

/** A number in the unit its field's name says. */
export interface Figure {
  readonly value: number;
  readonly origin: FigureOrigin;
}

/** What a board calls itself. Shown to people; no decision depends on it. */
export interface BoardIdentity {
  /** Key of the catalogue's board, when it is one of them. */
  readonly key?: string;
  readonly model: string;
  /** The device tree's `compatible` list, most specific first. */
  readonly compatible?: readonly string[];
  /** Release of the vendor's system, such as "L4T 35.3.1". */
  readonly release?: string;
}

/** How a board reaches the broker. */
export interface LinkFigures {
  readonly uplinkBitsPerSecond: Figure;
  readonly downlinkBitsPerSecond: Figure;
  readonly roundTripMs: Figure;
}

/** What a board is: the facts that selection decides from. Holds no id and no private data. */
export interface DeviceProfile {
  readonly board: BoardIdentity;
  readonly memory: {
    /** What the operating system sees. */
    readonly totalBytes: Figure;
    /** What training may take now: free and reclaimable memory, within the control group's limits. */
    readonly availableBytes: Figure;
    /** The lowest control group limit above the process, when there is one. */
    readonly limitBytes?: Figure;
  };
  /** Processors this process may use; a fraction under a CPU quota. */
  readonly cores: Figure;
  /** Rate of float32 matrix products through the engine (2*m*n*k per product). */
  readonly gemmFlopsPerSecond: Figure;
  readonly link: LinkFigures;
  /** Power of the whole board; absent without a sensor or a declaration. */
  readonly power?: { readonly idleWatts?: Figure; readonly activeWatts?: Figure };
  readonly temperatureCelsius?: Figure;
  /** Whether heat or supply voltage holds the processor back now; absent when unknown. */
  readonly throttled?: boolean;
  /** Execution providers of the engine on this board, such as "cpu" and "cuda". */
  readonly providers: readonly string[];
}

/** What a round may take of a board beside its other work; what is absent is not limited. */
export interface DeviceBudget {
  /** Above the idle device process. */
  readonly trainingMemoryBytes?: number;
  readonly uplinkBytesPerRound?: number;
  readonly downlinkBytesPerRound?: number;
  /** Both directions together. */
  readonly bytesPerRound?: number;
  readonly secondsPerRound?: number;
  readonly joulesPerRound?: number;
}

/**
 * Reads a foreign profile. A figure is `{ value, origin }`, a number in the field's unit, or a quantity such as
 * "2.5 Mbit/s"; the latter two count as declared. Throws `PROFILE_INVALID` naming `source`, field and value.
 */
export function parseProfile(input: unknown, source = "device profile"): DeviceProfile {
  return parseWith(profileSchema, input, source, "PROFILE_INVALID");
}

/** Reads a foreign budget: numbers in the field's unit or quantities such as "48 MB". Throws `BUDGET_INVALID`. */
export function parseBudget(input: unknown, source = "device budget"): DeviceBudget {
  return parseWith(budgetSchema, input, source, "BUDGET_INVALID");
}

/** A number of `unit` that is finite and at least 0, or above 0 where zero would mean no board at all. */
function quantity(unit: Unit, zero: "zero allowed" | "positive") {
  return z.union([z.number(), z.string().max(40)]).transform((given, context): number => {
    const value = typeof given === "number" ? given : parseQuantity(given, unit);
    const floor = zero === "positive" ? Number.MIN_VALUE : 0;
    // Larger figures are slips of a unit, and lose whole bytes.
    if (value !== undefined && value >= floor && value <= Number.MAX_SAFE_INTEGER) return value;
    const range = zero === "positive" ? "above 0" : "0 or more";
    const message = `${JSON.stringify(given)} is no quantity ${range} in ${unitNames(unit)}`;
    context.addIssue({ code: "custom", message });
    return z.NEVER;
  });
}

function figure(unit: Unit, zero: "zero allowed" | "positive" = "positive") {
  const bare = (given: unknown) =>
    typeof given === "number" || typeof given === "string"
      ? { value: given, origin: "declared" }
      : given;
  return z.preprocess(bare, z.strictObject({ value: quantity(unit, zero), origin }));
}

const origin = z.enum(["measured", "declared", "estimated"]);

// Names are shown on terminals and in HTML: no control characters, bounded length.
const name = z
  .string()
  .min(1)
  .max(200)
  .regex(/^\P{Cc}*$/u);

const profileSchema = z.strictObject({
  board: z.strictObject({
    key: name.exactOptional(),
    model: name,
    compatible: z.array(name).max(16).exactOptional(),
    release: name.exactOptional(),
  }),
  memory: z.strictObject({
    totalBytes: figure("bytes"),
    availableBytes: figure("bytes", "zero allowed"),
    limitBytes: figure("bytes").exactOptional(),
  }),
  cores: figure("cores"),
  gemmFlopsPerSecond: figure("flopsPerSecond"),
  link: z.strictObject({
    uplinkBitsPerSecond: figure("bitsPerSecond"),
    downlinkBitsPerSecond: figure("bitsPerSecond"),
    roundTripMs: figure("milliseconds", "zero allowed"),
  }),
  power: z
    .strictObject({
      idleWatts: figure("watts").exactOptional(),
      activeWatts: figure("watts").exactOptional(),
    })
    .exactOptional(),
  temperatureCelsius: z
    .strictObject({ value: z.number().min(-60).max(200), origin })
    .exactOptional(),
  throttled: z.boolean().exactOptional(),
  providers: z.array(name).max(32),
});

/** Fields of a budget, all of which may be left out; a quantity is a number in the field's unit or text such as "48 MB". */
export const budgetSchema = z.strictObject({
  trainingMemoryBytes: quantity("bytes", "zero allowed").exactOptional(),
  uplinkBytesPerRound: quantity("bytes", "zero allowed").exactOptional(),
  downlinkBytesPerRound: quantity("bytes", "zero allowed").exactOptional(),
  bytesPerRound: quantity("bytes", "zero allowed").exactOptional(),
  secondsPerRound: quantity("seconds", "zero allowed").exactOptional(),
  joulesPerRound: quantity("joules", "zero allowed").exactOptional(),
});

function parseWith<T>(
  schema: z.ZodType<T>,
  input: unknown,
  source: string,
  code: DeviceErrorCode,
): T {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const problems = result.error.issues
    .slice(0, 3)
    .map(({ path, message }) => `${path.join(".") || "(whole)"}: ${message}`);
  throw deviceErrors.error(code, `${source}: ${problems.join("; ")}`, {
    hint: 'A quantity is a number in the unit that its field names, or text such as "48 MB" or "90 s".',
  });
}
