// `trifold broker`: the embedded broker alone, for a coordinator that comes and goes.
import type { Command } from "commander";
import { log, printResult } from "../command-result.ts";
import type { ListenerFlags } from "../connection.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples } from "./option-values.ts";

interface BrokerFlags extends ListenerFlags {
  readonly json?: boolean;
}

/** Registers `broker`. Serving until it is told to stop is its work, so Ctrl-C ends it with status 0. */
export function brokerCommand(program: Command): void {
  program
    .command("broker")
    .summary("run the embedded MQTT broker alone")
    .description(
      "Runs the embedded MQTT 3.1.1 broker until Ctrl-C. Beyond this machine it listens only with credentials.",
    )
    .option(
      "--listen <url>",
      "address to listen on; port 0 takes a free one",
      "mqtt://127.0.0.1:1883",
    )
    .option("--credentials <file>", "name:password lines, one for each device and for coordinator")
    .option("--cert <file>", "PEM of the certificate, for mqtts://")
    .option("--key <file>", "PEM of the certificate's key")
    .option("--ca <file>", "PEM of the authority that clients' certificates must come from")
    .option("--json", "print one JSON document when it listens")
    .addHelpText(
      "after",
      examples(
        "broker",
        "broker --listen mqtt://0.0.0.0:1883 --credentials users.txt",
        "broker --listen mqtts://0.0.0.0:8883 --credentials users.txt --cert cert.pem --key key.pem",
      ),
    )
    .action(run);
}

async function run({ json, ...flags }: BrokerFlags): Promise<void> {
  const { listenerOf } = await import("../connection.ts");
  const { startBroker } = await import("../../broker/index.ts");
  const { signal, close } = interruptSignal();
  try {
    const broker = await startBroker({ ...(await listenerOf(flags)), log });
    const { url, host, port } = broker;
    await printResult(
      { json: { url, host, port }, text: `listening on ${url}` },
      json ? { json } : {},
    );
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await broker.close();
    log("stopped");
  } finally {
    close();
  }
}
