// Which execution providers of ONNX Runtime compute on this machine. What was compiled in says little: without its library
// CUDA throws on x86-64, and a binding that lacks it falls back to the CPU without a word. So each is tried in a process of
// its own, which may crash or hang without harm.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { extname } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

/** An execution provider that Trifold computes on, by ONNX Runtime's name. */
export type ProviderName = "cpu" | "cuda";

/** What a person asks for: a provider, or the fastest that works. */
export type ProviderChoice = "auto" | ProviderName;

/** What trying a provider showed. */
export interface ProviderReport {
  readonly name: string;
  readonly works: boolean;
  /** Why it does not, or what was seen to work; one line. */
  readonly reason: string;
  /** Time of the trial, the start of its process included. */
  readonly ms: number;
}

/** What to try, and how. */
export interface ProbeOptions {
  /** Names of ONNX Runtime; default: those that Trifold computes on. */
  readonly names?: readonly string[];
  /** Longest trial; a GPU that was never used before takes its time. Default 60 s. */
  readonly timeLimitMs?: number;
  /** Program that is given a name and prints `{ works, reason }` as JSON; default: a small graph, compared with the CPU's numbers. */
  readonly program?: URL;
}

/** Tries providers one after another. Never throws: what goes wrong in a trial is its reason. */
export async function probeProviders(
  options: ProbeOptions = {},
): Promise<readonly ProviderReport[]> {
  const { names = ["cpu", "cuda"], timeLimitMs = 60_000, program = probeProgram() } = options;
  const reports: ProviderReport[] = [];
  for (const name of names) {
    const startMs = performance.now();
    const outcome = await tryProvider(name, program, timeLimitMs);
    reports.push({ name, ...outcome, ms: performance.now() - startMs });
  }
  return reports;
}

/** Surroundings of a choice. */
export interface ChoiceOptions {
  /** Told, in one line, that a provider asked for by name does not work. */
  readonly warn: (message: string) => void;
  /** Told why `auto` stays on the CPU. */
  readonly debug?: (message: string) => void;
  readonly probe?: (options: ProbeOptions) => Promise<readonly ProviderReport[]>;
  /** Whether there is hardware that makes a trial worth while; a board without it is spared the process. */
  readonly hasGpu?: () => boolean;
}

/** The providers for an engine, best first: what was chosen if it works, and always the CPU for what it leaves. */
export async function chooseProviders(
  choice: ProviderChoice,
  options: ChoiceOptions,
): Promise<readonly ProviderName[]> {
  const { warn, debug = () => undefined, probe = probeProviders, hasGpu = hasNvidiaGpu } = options;
  if (choice === "cpu") return ["cpu"];
  if (choice === "auto" && !hasGpu()) {
    debug("provider auto: no NVIDIA device here, computing on the CPU");
    return ["cpu"];
  }
  const [report] = await probe({ names: ["cuda"] });
  if (report?.works) return ["cuda", "cpu"];
  const tell = choice === "auto" ? debug : warn;
  tell(
    `provider ${choice}: cuda does not work here (${report?.reason}), computing on the CPU; see docs/jetson.md`,
  );
  return ["cpu"];
}

type Outcome = Pick<ProviderReport, "works" | "reason">;

async function tryProvider(name: string, program: URL, timeLimitMs: number): Promise<Outcome> {
  const startMs = performance.now();
  const child = spawn(process.execPath, [fileURLToPath(program), name], {
    // The native library writes its own complaints to standard error.
    stdio: ["ignore", "pipe", "ignore"],
    timeout: timeLimitMs,
    killSignal: "SIGKILL",
  });
  const [end, output] = await Promise.all([endOf(child), text(child.stdout)]);
  if (end === "SIGKILL" && performance.now() - startMs >= timeLimitMs) {
    return { works: false, reason: `no answer within ${timeLimitMs / 1000} s` };
  }
  return end === "0" ? readOutcome(output) : { works: false, reason: `the trial ended by ${end}` };
}

/** Exit status, name of the signal, or what kept the process from starting. */
function endOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (status, signal) => resolve(signal ?? String(status)));
  });
}

function readOutcome(output: string): Outcome {
  try {
    const { works, reason } = JSON.parse(output) as Partial<Outcome>;
    return { works: works === true, reason: String(reason).replace(/\s+/g, " ").slice(0, 300) };
  } catch {
    return { works: false, reason: "the trial gave no answer" };
  }
}

/** Device files of NVIDIA's drivers: desktop and server, Jetson (JetPack 5, 6 and newer), Windows' subsystem for Linux. */
const gpuFiles = ["/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg"];

function hasNvidiaGpu(): boolean {
  return gpuFiles.some((file) => existsSync(file));
}

/** Beside this file, with its extension: `.js` once compiled. */
function probeProgram(): URL {
  return new URL(`./provider-probe${extname(import.meta.url)}`, import.meta.url);
}
