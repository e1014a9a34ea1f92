// What a task says of single devices: rows that name devices, by id or pattern or by the group that a device's owner
// gave it, and how these take part. The first row that names a device is its own.
import { z } from "zod";
import { executionModes } from "../runtime/index.ts";
import { encodingNames } from "./encoding/encoded.ts";
import type { Protocol } from "./protocol.ts";
import type { Task } from "./task.ts";
import { labelOf, type Way, wayOf } from "./way.ts";

const overrideSchema = z
  .strictObject({
    /** Ids, or patterns in which * stands for any characters. */
    devices: z
      .array(z.string().regex(/^[A-Za-z0-9_*-]{1,64}$/))
      .min(1)
      .exactOptional(),
    /** The `group` of the devices' own configuration. */
    group: z
      .string()
      .regex(/^[A-Za-z0-9_-]{1,64}$/)
      .exactOptional(),
    protocol: z.string().min(1).max(64).exactOptional(),
    cutLayer: z.int().positive().exactOptional(),
    rank: z.int().min(1).max(256).exactOptional(),
    mode: z.enum(executionModes).exactOptional(),
    encoding: z.enum(encodingNames).exactOptional(),
    /** Take it even where a limit of memory, bytes, seconds or energy speaks against it. */
    force: z.boolean().default(false),
  })
  .refine(({ devices, group }) => (devices === undefined) !== (group === undefined), {
    message: 'give either "devices" or "group"',
  });

/** The task's `assignments`. */
export const assignmentOptions = z.array(overrideSchema).max(1000).default([]);

/** One row: whom it names, and what it asks for. */
export type Override = z.output<typeof overrideSchema>;

/** The row that speaks of a device, or undefined when the task leaves it to selection. */
export function overrideFor(
  { assignments }: Pick<Task, "assignments">,
  deviceId: string,
  group?: string,
): Override | undefined {
  return assignments.find((row) =>
    row.devices === undefined
      ? row.group === group
      : row.devices.some((pattern) => matches(pattern, deviceId)),
  );
}

/** How people read a row: "split (cut 2), for devices pi-*". */
export function overrideText(row: Override): string {
  const { devices, group, protocol = "any protocol" } = row;
  const whom = devices === undefined ? `group ${group}` : `devices ${devices.join(", ")}`;
  return `${labelOf({ ...row, protocol })}, for ${whom}`;
}

/** The task as it reads for the devices of a row, so that a protocol offers the cut and the mode that are asked for. */
export function overriddenTask(task: Task, row: Override | undefined): Task {
  const { cutLayer, mode } = row ?? {};
  return {
    ...task,
    ...(cutLayer === undefined ? {} : { split: { ...task.split, cutLayer } }),
    ...(mode === undefined ? {} : { execution: { ...task.execution, modes: [mode] } }),
  };
}

/** Fields of a way that a protocol lets differ from device to device. */
function heededFields({ heeds = [], cutLayers, modes }: HeedingProtocol): (keyof Way)[] {
  return [
    ...heeds,
    ...(cutLayers ? ["cutLayer" as const] : []),
    ...(modes ? ["mode" as const] : []),
  ];
}

/**
 * What a row asks of a protocol that it cannot give, or undefined. Cut and mode in a row without a protocol speak of those that
 * have them; rank and encoding say something of any update, so a protocol that ignored them would do what nobody asked for.
 */
export function unheeded(
  protocol: HeedingProtocol & Pick<Protocol, "name">,
  row: Override | undefined,
): string | undefined {
  if (row === undefined) return undefined;
  const heeded = heededFields(protocol);
  const { cutLayer: _, mode: __, ...ofAny } = wayOf(row);
  const asked = row.protocol === undefined ? ofAny : wayOf(row);
  const stray = Object.keys(asked).find((field) => !heeded.some((name) => name === field));
  if (stray === undefined) return undefined;
  const own = heeded.length === 0 ? "nothing" : `only ${heeded.join(", ")}`;
  return `the task's assignments give it "${stray}", and ${protocol.name} lets ${own} differ between devices`;
}

type HeedingProtocol = Pick<Protocol, "heeds" | "cutLayers" | "modes">;

function matches(pattern: string, deviceId: string): boolean {
  const parts = pattern.split("*");
  const [first = "", last = ""] = [parts[0], parts.at(-1)];
  if (parts.length === 1) return pattern === deviceId;
  if (!deviceId.startsWith(first) || !deviceId.endsWith(last)) return false;
  // Each part at its first place after the one before: with stars alone between them nothing is lost by that.
  let end = first.length;
  for (const part of parts.slice(1, -1)) {
    const place = deviceId.indexOf(part, end);
    if (place < 0) return false;
    end = place + part.length;
  }
  return end <= deviceId.length - last.length;
}
