// `trifold profile`: what a board is, and which framework it would get in a task, with every reason.
import {
  boardProfile,
  type DeviceBudget,
  type DeviceProfile,
  measureProfile,
} from "../../devices/index.ts";
import {
  assignDevice,
  builtInProtocols,
  type Selection,
  type Task,
} from "../../protocols/index.ts";
import { type ProviderName, type ProviderReport, probeProviders } from "../../runtime/index.ts";
import { prepareTask } from "../coordinator/prepared-task.ts";
import { readTaskFile } from "../coordinator/task-file.ts";
import { readDeviceConfig } from "../device/config.ts";
import { measureGemm } from "../device/gemm-probe.ts";
import { exampleTask } from "./example-task.ts";

/** Which board, and for which task. */
export interface ProfileOptions {
  /** A board of the catalogue; this machine when left out. */
  readonly board?: string;
  /** Task file; the example task when left out. */
  readonly task?: string;
  /** The device's configuration: its budget, and its profile where it declares one. */
  readonly config?: string;
  readonly threads?: number;
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
}

/** A board's profile and what follows from it. */
export interface ProfileReport {
  readonly profile: DeviceProfile;
  /** What trying the execution providers of this machine showed; absent for a catalogue or declared profile. */
  readonly providers?: readonly ProviderReport[];
  readonly budget: DeviceBudget;
  readonly task: { readonly name: string; readonly order: readonly string[] };
  readonly selection: Selection;
}

/** Measures or looks up a profile and selects. Throws `BOARD_UNKNOWN`, `TASK_*`, `DEVICE_CONFIG_INVALID`, `PROFILE_*`. */
export async function profileReport(options: ProfileOptions): Promise<ProfileReport> {
  const { board, cacheFolder } = options;
  const config = await readDeviceConfig(options.config);
  const catalogue = board === undefined ? undefined : boardProfile(board);
  const task =
    options.task === undefined
      ? await exampleTask(cacheFolder)
      : (await prepareTask(await readTaskFile(options.task), cacheFolder)).task;
  const declared = catalogue ?? config.profile;
  const providers = declared ? undefined : await probeProviders();
  const profile = declared ?? (await measure(options, config.threads, working(providers ?? [])));
  const { budget, group, protocols } = config;
  const selection = assignDevice([...new Set([...builtInProtocols, ...protocols])], task, {
    deviceId: "this-device",
    profile,
    budget,
    ...(group === undefined ? {} : { group }),
    ...nominalTexts,
    protocols: Object.fromEntries(protocols.map(({ name, version }) => [name, version])),
  });
  const tried = providers === undefined ? {} : { providers };
  return { profile, ...tried, budget, task: taskName(task), selection };
}

/** No data is read here: a fifth of 300 private examples. */
const nominalTexts = { train: 240, holdOut: 60 };

async function measure(
  { threads, signal }: ProfileOptions,
  configured: number | undefined,
  providers: readonly ProviderName[],
): Promise<DeviceProfile> {
  const chosen = threads ?? configured;
  const settings = { signal, providers, ...(chosen && { threads: chosen }) };
  return await measureProfile({
    measureGemm: () => measureGemm(settings),
    probeProviders: async () => providers,
    signal,
  });
}

/** What to compute on, best first. */
function working(reports: readonly ProviderReport[]): readonly ProviderName[] {
  const isCudaUsable = reports.some(({ name, works }) => name === "cuda" && works);
  return isCudaUsable ? ["cuda", "cpu"] : ["cpu"];
}

function taskName({ name, selection }: Task): ProfileReport["task"] {
  return { name, order: selection.order };
}
