// `trifold broker`: the embedded broker alone, for a coordinator that comes and goes.
import type { Command } from "commander";
import { log, printResult } from "../command-result.ts";
import type { ListenerFlags } from "../connection.ts";
import { interruptSignal } from "../interrupt.ts";
import { listenerOptions } from "./listener-options.ts";
import { examples } from "./option-values.ts";

interface BrokerFlags extends ListenerFlags {
  readonly json?: boolean;
}

/** Registers `broker`. Serving until it is told to stop is its work, so Ctrl-C ends it with status 0. */
export function brokerCommand(program: Command): void {
  const command = program
    .command("broker")
    .summary("run the embedded MQTT broker alone")
    .description(
      "Runs the embedded MQTT 3.1.1 broker until Ctrl-C. Beyond this machine it listens only with client certificates\n(--keys, or --ca with --cert and --key) or passwords (--credentials).",
    );
  listenerOptions(command)
    .option("--cert <file>", "PEM of the certificate, for mqtts:// and wss://")
    .option("--key <file>", "PEM of the certificate's key")
    .option("--ca <file>", "PEM of the authority that clients' certificates must come from")
    .option("--json", "print one JSON document when it listens")
    .addHelpText(
      "after",
      examples(
        "broker --anonymous",
        "broker --listen mqtts://0.0.0.0:8883 --listen wss://0.0.0.0:8884 --keys ./keys",
        "broker --listen mqtts://0.0.0.0:8883 --credentials users.txt --cert cert.pem --key key.pem",
      ),
    )
    .action(run);
}

async function run({ json, ...flags }: BrokerFlags): Promise<void> {
  const { listenersOf } = await import("../connection.ts");
  const { startBroker } = await import("../../broker/index.ts");
  const { followRevocations } = await import("../keys/revocations.ts");
  const { signal, close } = interruptSignal();
  try {
    const broker = await startBroker({ ...(await listenersOf(flags)), log });
    const unfollow = await followRevocations({ broker, keys: flags.keys, log });
    const { url, host, port } = broker;
    const listeners = broker.listeners.map((listener) => listener.url);
    await printResult(
      { json: { url, host, port, listeners }, text: `listening on ${listeners.join(", ")}` },
      json ? { json } : {},
    );
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    unfollow();
    await broker.close();
    log("stopped");
  } finally {
    close();
  }
}
