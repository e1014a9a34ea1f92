// From a device's command line to a running device: configuration, profile, engine, agent.
import { checkDeviceId, checkId } from "../../broker/index.ts";
import { type DeviceProfile, measureProfile } from "../../devices/index.ts";
import { builtInProtocols } from "../../protocols/index.ts";
import { openBaseModel, ortEngine, readTable } from "../../runtime/index.ts";
import { type ConnectionFlags, readSecrets } from "../connection.ts";
import { runAgent } from "./agent.ts";
import { type DeviceConfig, readDeviceConfig } from "./config.ts";
import { measureGemm } from "./gemm-probe.ts";

/** What the command line gives. */
export interface DeviceStart extends ConnectionFlags {
  readonly broker: string;
  readonly id: string;
  readonly federation: string;
  readonly data: string;
  readonly textColumn: string;
  readonly labelColumn: string;
  readonly config?: string;
  readonly model?: string;
  readonly state: string;
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
}

/** Takes part until the task is finished or the signal is aborted. Wrong input is refused before anything is connected. */
export async function startDevice(start: DeviceStart): Promise<void> {
  const { id, federation, signal, log } = start;
  checkDeviceId(id);
  checkId("federation", federation);
  const config = await readDeviceConfig(start.config);
  const secrets = await readSecrets(start);
  await checkInputs(start);
  const username = secrets.username ?? (secrets.password === undefined ? undefined : id);
  const profile = await profileOf(config, signal);
  const { threads, budget, holdOutFraction } = config;
  const engine = ortEngine(threads === undefined ? {} : { threads });
  log(`${profile.board.model}, joining "${federation}" at ${start.broker}`);
  try {
    await runAgent({
      deviceId: id,
      federation,
      broker: { url: start.broker, ...secrets, ...(username === undefined ? {} : { username }) },
      profile,
      budget,
      data: {
        file: start.data,
        textColumn: start.textColumn,
        labelColumn: start.labelColumn,
        holdOutFraction,
      },
      places: {
        modelFolder: start.model,
        stateFolder: start.state,
        cacheFolder: start.cacheFolder,
      },
      engine,
      protocols: builtInProtocols,
      signal,
      log,
    });
    log("the task is finished");
  } finally {
    await engine.close();
  }
}

/** What needs no task to be seen: labels are checked once there is one. */
async function checkInputs({ data, textColumn, labelColumn, model, cacheFolder }: DeviceStart) {
  await readTable(data, { textColumn, labelColumn });
  if (model !== undefined) await openBaseModel(model, { cacheFolder });
}

/** The declared profile, else a measured one. The probe's engine is closed before training begins. */
async function profileOf(
  { profile, threads }: DeviceConfig,
  signal: AbortSignal,
): Promise<DeviceProfile> {
  if (profile) return profile;
  return measureProfile({
    measureGemm: () => measureGemm({ ...(threads === undefined ? {} : { threads }), signal }),
    signal,
  });
}
