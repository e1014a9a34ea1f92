// The device's own configuration: YAML that its owner writes. Everything in it may be left out.
import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import {
  type DeviceBudget,
  type DeviceProfile,
  parseBudget,
  parseProfile,
} from "../../devices/index.ts";
import {
  type AnyProtocol,
  adapterSchema,
  builtInProtocols,
  idPattern,
  type Task,
} from "../../protocols/index.ts";
import { defaultHeartbeatMs } from "../heartbeat.ts";
import { loadProtocols } from "../protocol-packages.ts";
import { deviceProgramErrors } from "./errors.ts";

/** What the owner declares. */
export interface DeviceConfig {
  /** Declared instead of measured: for virtual boards and hardware-in-the-loop tests. */
  readonly profile?: DeviceProfile;
  /** What a round may take beside the board's other work. */
  readonly budget: DeviceBudget;
  /** Threads of one operator. */
  readonly threads?: number;
  /** Protocols that the device takes part with; every built-in one when left out. */
  readonly protocols: readonly AnyProtocol[];
  /** What a task's assignments may call the devices of an owner. */
  readonly group?: string;
  /** A model of its own for `kd`, in place of the task's. */
  readonly ownModel?: OwnModelPlace;
  /** Time between two heartbeats of the device's status. */
  readonly heartbeatMs: number;
  /** Share of the private examples held out for the local accuracy. */
  readonly holdOutFraction: number;
}

/** Where a model of the device's own is and how it is adapted; as the task says when left out. */
export interface OwnModelPlace {
  readonly folder: string;
  readonly adapter?: Task["adapter"];
}

const schema = z.strictObject({
  profile: z.unknown().optional(),
  budget: z.unknown().optional(),
  protocols: z.array(z.string().min(1).max(500)).min(1).optional(),
  group: z.string().regex(idPattern).optional(),
  threads: z.int().min(1).max(256).optional(),
  kd: z
    .strictObject({
      /** Folder of a model of the device's own, relative to this file. */
      model: z.string().min(1),
      adapter: adapterSchema.exactOptional(),
    })
    .optional(),
  holdOutFraction: z.number().min(0).max(0.9).default(0.2),
  heartbeatSeconds: z
    .number()
    .min(1)
    .max(86_400)
    .default(defaultHeartbeatMs / 1000),
});

/** Reads the configuration; without a path, the defaults. Throws `DEVICE_CONFIG_INVALID`, `PROFILE_INVALID`, `BUDGET_INVALID` or `PROTOCOL_PACKAGE_*`. */
export async function readDeviceConfig(path?: string): Promise<DeviceConfig> {
  const input = path === undefined ? {} : await readYaml(path);
  const parsed = schema.safeParse(input ?? {});
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(path, `${issue?.path.join(".") || "configuration"}: ${issue?.message}`);
  }
  const { profile, budget, threads, group, protocols, kd, holdOutFraction } = parsed.data;
  const heartbeatMs = 1000 * parsed.data.heartbeatSeconds;
  const folder = dirname(resolve(path ?? "."));
  return {
    budget: parseBudget(budget ?? {}, `${path ?? "device"}: budget`),
    holdOutFraction,
    heartbeatMs,
    protocols: protocols ? await loadProtocols({ names: protocols, folder }) : builtInProtocols,
    ...(profile === undefined ? {} : { profile: parseProfile(profile, `${path}: profile`) }),
    ...(threads === undefined ? {} : { threads }),
    ...(group === undefined ? {} : { group }),
    ...(kd === undefined ? {} : { ownModel: ownModelPlace(path, kd) }),
  };
}

function ownModelPlace(
  path: string | undefined,
  { model, ...adapted }: { readonly model: string; readonly adapter?: Task["adapter"] },
): OwnModelPlace {
  return { folder: resolve(dirname(path ?? "."), model), ...adapted };
}

async function readYaml(path: string): Promise<unknown> {
  try {
    return parse(await readFile(path, "utf8"), { prettyErrors: true });
  } catch (cause) {
    throw invalid(
      path,
      cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause),
      cause,
    );
  }
}

function invalid(path: string | undefined, what: string, cause?: unknown): Error {
  return deviceProgramErrors.error("DEVICE_CONFIG_INVALID", `${path}: ${what}`, {
    hint: "examples/device.yaml shows every field.",
    cause,
  });
}
