// The protocols a program knows. A name on the wire is looked up here and never imported.
import type { DeviceBudget, DeviceProfile } from "../devices/index.ts";
import { protocolErrors } from "./errors.ts";
import { full } from "./full/index.ts";
import { kd } from "./kd/index.ts";
import { type Override, overriddenTask, overrideFor, overrideText, unheeded } from "./overrides.ts";
import { type OwnModel, ownModelProblem, withOwnModel } from "./own-model.ts";
import type { CostOptions, Payload, Protocol } from "./protocol.ts";
import { costOf } from "./remembered-costs.ts";
import {
  type Candidate,
  type Selection,
  type SelectionInput,
  selectAssignment,
} from "./selection.ts";
import { split } from "./split/index.ts";
import type { Task } from "./task.ts";
import { type Way, wayOf } from "./way.ts";

/** A protocol with its message types forgotten: what comes from the wire is parsed by the protocol itself. */
export type AnyProtocol = Protocol<Payload, Payload>;

/** The three frameworks of Yan et al. 2025. */
export const builtInProtocols: readonly AnyProtocol[] = [full, kd, split];

/** The protocol of that name and version; throws `PROTOCOL_UNKNOWN` or `PROTOCOL_VERSION_MISMATCH`. */
export function findProtocol(
  known: readonly AnyProtocol[],
  name: string,
  version: number,
): AnyProtocol {
  const protocol = known.find((candidate) => candidate.name === name);
  if (!protocol) {
    const names = known.map((candidate) => candidate.name).join(", ");
    throw protocolErrors.error(
      "PROTOCOL_UNKNOWN",
      `no protocol is called "${name}"; this end has ${names}`,
    );
  }
  if (protocol.version !== version) {
    throw protocolErrors.error(
      "PROTOCOL_VERSION_MISMATCH",
      `"${name}": this end speaks version ${protocol.version}, the other ${version}`,
      { hint: "Install the same version of Trifold on the coordinator and on the device." },
    );
  }
  return protocol;
}

/** What a device says of itself when it is ready. */
export interface DeviceOffer {
  readonly deviceId: string;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  /** Private examples held out for the local accuracy. */
  readonly holdOut: number;
  /** Private examples to train with, where they are known. */
  readonly train?: number | undefined;
  /** Version of each protocol the device has, by name. */
  readonly protocols: Readonly<Record<string, number>>;
  /** What its owner counts it among, for overrides of the task. */
  readonly group?: string;
  /** What it runs in place of the task's model where a protocol leaves it the choice. */
  readonly ownModel?: OwnModel | undefined;
  /** Whether it holds the task's model; true when left out. */
  readonly hasModel?: boolean | undefined;
}

/** Chooses a device's framework and way among what both ends know; what the task says of the device narrows it. */
export function assignDevice(
  known: readonly AnyProtocol[],
  task: Task,
  offer: DeviceOffer,
): Selection {
  return selectAssignment(selectionInput(known, task, offer));
}

/** Everything that a device's assignment is decided from. */
export function selectionInput(
  known: readonly AnyProtocol[],
  task: Task,
  offer: DeviceOffer,
): SelectionInput {
  const { deviceId, profile, budget, group } = offer;
  const row = overrideFor(task, deviceId, group);
  const asked = overriddenTask(task, row);
  const candidates = known
    .filter(({ name }) => task.selection.order.includes(name) || name === row?.protocol)
    .filter(({ name }) => row?.protocol === undefined || name === row.protocol)
    .flatMap((protocol) => candidatesOf(protocol, asked, offer, row));
  return {
    deviceId,
    profile,
    budget,
    candidates,
    order: task.selection.order,
    modes: asked.execution.modes,
    limits: taskLimits(task),
    ...(row ? { override: { text: overrideText(row), force: row.force } } : {}),
  };
}

/** `execution.memoryBytes` says the same as `selection.limits.trainingMemoryBytes`; the lower one counts. */
function taskLimits({ execution: { memoryBytes }, selection: { limits } }: Task): DeviceBudget {
  if (memoryBytes === undefined) return limits;
  const { trainingMemoryBytes = memoryBytes } = limits;
  return { ...limits, trainingMemoryBytes: Math.min(memoryBytes, trainingMemoryBytes) };
}

/** Every way a device could use a protocol: one for each cut, one for each rank and mode, or one as a whole. */
function candidatesOf(
  protocol: AnyProtocol,
  task: Task,
  offer: DeviceOffer,
  row: Override | undefined,
): Candidate[] {
  const { name, version, heeds = [] } = protocol;
  const seen = taskFor(protocol, task, offer);
  const refusedBecause =
    versionRefusal(protocol, offer) ??
    asynchronousRefusal(protocol, task) ??
    modelRefusal(protocol, task, offer) ??
    protocol.refusal?.(task) ??
    unheeded(protocol, row);
  const refusal = refusedBecause === undefined ? {} : { refusedBecause };
  const cuts = protocol.cutLayers?.(task).map((cutLayer) => ({ cutLayer })) ?? [{}];
  const modes = protocol.modes?.(task) ?? ["whole-float32"];
  const own = Object.fromEntries(
    Object.entries(wayOf(row ?? {})).filter(([field]) => heeds.some((heeded) => heeded === field)),
  );
  const allowed = protocol.allowance?.(task, offer);
  const allowance = allowed === undefined ? {} : { allowance: allowed };
  const ranks = heeds.includes("rank") && row?.rank === undefined ? ranksOf(task) : [{}];
  const ways = cuts.flatMap((cut) =>
    ranks.flatMap((rank) =>
      modes.map((mode): Way => {
        const way = { ...own, ...cut, ...rank };
        return mode === "whole-float32" ? way : { ...way, mode };
      }),
    ),
  );
  return ways
    .filter(
      ({ cutLayer }) =>
        row?.cutLayer === undefined || !protocol.cutLayers || cutLayer === row.cutLayer,
    )
    .map((way) => ({
      protocol: name,
      version,
      ...way,
      ...allowance,
      cost: costOf(protocol, seen, { ...textsOf(offer), ...way, ...allowance }),
      ...refusal,
    }));
}

/** The ranks that the task offers: its own first, which a way need not name. */
function ranksOf({ adapter: { rank, ranks = [] } }: Task): Pick<Way, "rank">[] {
  const lower = [...new Set(ranks)].filter((one) => one < rank);
  return [{}, ...lower.map((one) => ({ rank: one }))];
}

/** An update of `full` stands for itself; what the others exchange belongs to one round and its one theta. */
function asynchronousRefusal({ name }: AnyProtocol, { asynchronous }: Task): string | undefined {
  if (asynchronous === undefined || name === "full") return undefined;
  return 'an asynchronous federation folds updates one at a time, which only those of "full" allow';
}

function textsOf({ holdOut, train }: DeviceOffer): Pick<CostOptions, "holdOut" | "train"> {
  return train === undefined ? { holdOut } : { holdOut, train };
}

/** The task as the device's model for this protocol makes it. */
function taskFor({ runsOwnModel }: AnyProtocol, task: Task, { ownModel }: DeviceOffer): Task {
  const isUsable = runsOwnModel && ownModel && ownModelProblem(task, ownModel) === undefined;
  return isUsable ? withOwnModel(task, ownModel) : task;
}

function modelRefusal(
  { runsOwnModel = false }: AnyProtocol,
  task: Task,
  { ownModel, hasModel = true }: DeviceOffer,
): string | undefined {
  if (runsOwnModel && ownModel) return ownModelProblem(task, ownModel);
  return hasModel ? undefined : "the device does not have the task's model";
}

function versionRefusal(
  { name, version }: AnyProtocol,
  { protocols }: Pick<DeviceOffer, "protocols">,
): string | undefined {
  const theirs = protocols[name];
  if (theirs === version) return undefined;
  return theirs === undefined
    ? `the device does not have "${name}"`
    : `the device speaks version ${theirs} of "${name}", the coordinator ${version}`;
}
