// `trifold device`: this board takes part in a federation.

import { homedir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import type { DeviceFlags } from "../device/start.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples, providerOption } from "./option-values.ts";

interface Flags extends DeviceFlags {
  readonly json?: boolean;
}

/** Registers `device`. */
export function deviceCommand(program: Command): void {
  program
    .command("device")
    .summary("take part in a federation with this board's own data")
    .description(
      "Measures this board, announces it, and takes part until the coordinator says that the task is finished.\nThe data never leave the board. Ctrl-C leaves; the same command comes back.",
    )
    .requiredOption(
      "--broker <url>",
      "mqtt, mqtts, ws or wss address: mqtts://HOST:PORT, wss://HOST:PORT/mqtt",
    )
    .requiredOption("--id <name>", "this device's id: letters, digits, dashes, underscores")
    .requiredOption("--data <file>", "CSV file with this board's own texts and labels")
    .option("--text-column <name>", "column of the texts", "text")
    .option("--label-column <name>", "column of the labels", "label")
    .option("--no-label-column", "the file has texts alone, for a language model")
    .option("--config <file>", "YAML: budget, declared profile, threads, hold-out")
    .option("--federation <name>", "name that coordinator and devices share", "main")
    .option(
      "--model <folder>",
      "folder of the base model (default: the state folder's, the embedded one, else fetched)",
    )
    .option(
      "--state <folder>",
      "where the device keeps what must survive a restart",
      defaultStateFolder(),
    )
    .addOption(providerOption())
    .option(
      "--username <name>",
      "user name at the broker (default: the id, if there is a password)",
    )
    .option("--password-file <file>", "file with the password; TRIFOLD_PASSWORD works too")
    .option("--ca <file>", "PEM of the authority to trust")
    .option("--cert <file>", "PEM of this device's certificate")
    .option("--key <file>", "PEM of the certificate's key")
    .option("--json", "print one JSON document when the task is finished")
    .addHelpText(
      "after",
      examples(
        "device --broker mqtt://192.168.1.10:1883 --id kitchen-pi --data messages.csv --password-file secret",
        "device --broker mqtts://lab:8883 --id pi-4 --data a.csv --ca ca.pem --cert pi-4.pem --key pi-4.key",
      ),
    )
    .action(run);
}

async function run({ json, ...flags }: Flags): Promise<void> {
  const { startDevice } = await import("../device/start.ts");
  const { signal, close } = interruptSignal();
  try {
    await startDevice({
      ...flags,
      cacheFolder: defaultCacheFolder(),
      signal,
      log: (text) => log(`${flags.id}: ${text}`),
    });
    const { id, federation } = flags;
    if (json) await printResult({ json: { id, federation, finished: true }, text: "" }, { json });
  } finally {
    close();
  }
}

function defaultStateFolder(): string {
  const base = process.env["XDG_STATE_HOME"] || join(homedir(), ".local", "state");
  return join(base, "trifold");
}
