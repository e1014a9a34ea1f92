// From a device's command line to a running device: configuration, profile, engine, agent.
import { checkDeviceId, checkId } from "../../broker/index.ts";
import {
  type DeviceProfile,
  formatQuantity,
  type LinkRates,
  measureProfile,
  openLoadMeter,
  readBoardState,
} from "../../devices/index.ts";
import {
  openBaseModel,
  ortEngine,
  type ProviderChoice,
  type ProviderName,
  readTable,
} from "../../runtime/index.ts";
import { type ConnectionFlags, readSecrets } from "../connection.ts";
import { errorText } from "../error-text.ts";
import { withPatience } from "../patience.ts";
import { engineProviders } from "../providers.ts";
import { runAgent } from "./agent.ts";
import { type DeviceConfig, readDeviceConfig } from "./config.ts";
import { measureGemmAside } from "./gemm-program.ts";
import { type LinkProbeOptions, measureLink } from "./link-probe.ts";

/** What the command line gives. */
export interface DeviceFlags extends ConnectionFlags {
  readonly broker: string;
  readonly id: string;
  readonly federation: string;
  readonly data: string;
  readonly textColumn: string;
  /** False for texts without labels. */
  readonly labelColumn: string | false;
  readonly config?: string;
  readonly model?: string;
  readonly state: string;
  readonly provider?: ProviderChoice;
}

/** The flags, and what the program around them provides. */
export interface DeviceStart extends DeviceFlags {
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
  const { threads, budget, group, ownModel, protocols, holdOutFraction } = config;
  const providers = await engineProviders(start.provider, log);
  const engine = ortEngine({ ...(threads && { threads }), providers, signal });
  log(`joining "${federation}" at ${start.broker}`);
  try {
    await runAgent({
      deviceId: id,
      federation,
      broker: { url: start.broker, ...secrets, ...(username === undefined ? {} : { username }) },
      profileOver: async (transport) => {
        const profile = await profileOf(
          config,
          { transport, federation, deviceId: id, signal },
          { providers, log },
        );
        log(`${profile.board.model}, ${linkText(profile)}`);
        return profile;
      },
      budget,
      ...(config.profile ? {} : boardReaders()),
      heartbeatMs: config.heartbeatMs,
      ...(group === undefined ? {} : { group }),
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
        ownModel,
      },
      engine,
      protocols,
      signal,
      log,
    });
    log("the task is finished");
  } finally {
    await engine.close();
  }
}

/** What reads this very board. */
function boardReaders() {
  const load = openLoadMeter();
  return { readState: () => readBoardState(), readLoad: () => load.read() };
}

/** What needs no task to be seen: labels are checked once there is one. */
async function checkInputs({ data, textColumn, labelColumn, model, cacheFolder }: DeviceStart) {
  await readTable(data, { textColumn, ...(labelColumn && { labelColumn }) });
  if (model !== undefined) await openBaseModel(model, { cacheFolder });
}

/** The declared profile, else a measured one. The probe's engine is closed before training begins. */
async function profileOf(
  { profile, threads }: DeviceConfig,
  probe: LinkProbeOptions,
  { providers, log }: { readonly providers: readonly ProviderName[] } & Pick<DeviceStart, "log">,
): Promise<DeviceProfile> {
  if (profile) return profile;
  const { signal } = probe;
  const link = await measureLinkWithin(probe, log);
  return measureProfile({
    measureGemm: () => measureGemmAside({ ...(threads && { threads }), providers, signal }),
    // Known to work, best first.
    probeProviders: async () => providers,
    ...(link ? { measureLink: () => Promise.resolve(link) } : {}),
    signal,
  });
}

/** The link's rates, or undefined with a line in the log when a broker's rules or a very slow link forbid timing it. */
async function measureLinkWithin(
  probe: LinkProbeOptions,
  log: (message: string) => void,
): Promise<LinkRates | undefined> {
  try {
    return await withPatience(probe.signal, linkPatienceMs, (signal) =>
      measureLink({ ...probe, signal }),
    );
  } catch (error) {
    probe.signal.throwIfAborted();
    log(`the link was not timed (${errorText(error).message}): its figures are estimates`);
    return undefined;
  }
}

const linkPatienceMs = 30_000;

function linkText({ link }: DeviceProfile): string {
  const up = formatQuantity(link.uplinkBitsPerSecond.value, "bitsPerSecond");
  const down = formatQuantity(link.downlinkBitsPerSecond.value, "bitsPerSecond");
  const { value, origin } = link.roundTripMs;
  return `link ${up} up, ${down} down, ${value.toFixed(1)} ms round trip (${origin})`;
}
