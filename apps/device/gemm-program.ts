// The matrix rate measured in a process of its own, so that ONNX Runtime is not in the memory of a device that is idle. As a
// program it prints the rate; imported it starts the program.
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { deviceProgramErrors } from "./errors.ts";
import { type GemmProbeOptions, measureGemm } from "./gemm-probe.ts";

/** FLOP/s as `measureGemm` finds them, in a process that ends with it. Throws `DEVICE_PROBE_FAILED`, or the signal's reason. */
export async function measureGemmAside({ signal, ...options }: GemmProbeOptions): Promise<number> {
  signal?.throwIfAborted();
  const child = spawn(process.execPath, [programFile, JSON.stringify(options)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const stop = () => child.kill("SIGKILL");
  signal?.addEventListener("abort", stop, { once: true });
  try {
    const ended = new Promise<string>((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("close", (status, name) => resolve(name ?? `status ${status}`));
    });
    const [end, out, complaint] = await Promise.all([
      ended,
      text(child.stdout),
      text(child.stderr),
    ]);
    signal?.throwIfAborted();
    const rate = Number(out);
    if (rate > 0) return rate;
    throw deviceProgramErrors.error(
      "DEVICE_PROBE_FAILED",
      `the matrix rate was not measured: its process ended with ${end}: ${complaint.trim().slice(-500)}`,
      { hint: "Declare gemmFlopsPerSecond in the profile of the device's configuration." },
    );
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

const programFile = fileURLToPath(import.meta.url);

if (process.argv[1] === programFile) {
  const options = JSON.parse(process.argv[2] ?? "{}") as GemmProbeOptions;
  process.stdout.write(String(await measureGemm(options)));
}
