// `trifold coordinator`: runs a task with the devices that join.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import type { CoordinatorFlags } from "../coordinator/start.ts";
import { interruptSignal } from "../interrupt.ts";
import { examples, several, wholeNumber } from "./option-values.ts";

interface Flags extends CoordinatorFlags {
  readonly json?: boolean;
}

/** Registers `coordinator`. */
export function coordinatorCommand(program: Command): void {
  program
    .command("coordinator")
    .summary("run a task with the devices that join")
    .description(
      "Runs the rounds of a task and saves the adapter in the run folder. The same command goes on after any\nstop or crash. Without --broker it listens itself, beyond this\nmachine only with --credentials; TLS with client certificates (--keys, or --ca) besides is recommended there.",
    )
    .requiredOption("--task <file>", "task file (YAML)")
    .option("--run <folder>", "run folder", "run")
    .option(
      "--listen <url>",
      "mqtt, mqtts, ws or wss address of the embedded broker; may be repeated (default: mqtt://127.0.0.1:1883)",
      several,
    )
    .option("--broker <url>", "another broker to use in place of the embedded one")
    .option(
      "--trust-broker",
      "use --broker without trying whether strangers may command devices there",
    )
    .option("--federation <name>", "name that coordinator and devices share", "main")
    .option("--credentials <file>", "name:password lines for the embedded broker, one a device")
    .option("--anonymous", "the embedded broker lets in every program of this machine")
    .option(
      "--keys <folder>",
      "folder of `trifold keys`: clients then show certificates, and revocations count at once",
    )
    .option(
      "--username <name>",
      "user name at another broker (default: coordinator, if there is a password)",
    )
    .option("--password-file <file>", "file with the password; TRIFOLD_PASSWORD works too")
    .option(
      "--ca <file>",
      "PEM of the authority of the broker, or of the devices at the embedded one",
    )
    .option(
      "--cert <file>",
      "PEM of the coordinator's certificate, which the embedded broker shows",
    )
    .option("--key <file>", "PEM of the certificate's key")
    .option("--threads <n>", "threads of one operator (default: all processors)", wholeNumber(1))
    .option(
      "--split-workers <n>",
      "processes that compute for split devices (default: none, in this one)",
      wholeNumber(0),
    )
    .option(
      "--protocol <package>",
      "package or file with another protocol; may be repeated",
      several,
    )
    .option("--json", "print one JSON document at the end")
    .addHelpText(
      "after",
      examples(
        "coordinator --task task.yaml --run ./run --anonymous",
        "coordinator --task task.yaml --listen mqtts://0.0.0.0:8883 --credentials users.txt --keys ./keys",
        "coordinator --task task.yaml --broker mqtt://mosquitto.local:1883 --password-file secret",
      ),
    )
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const { startCoordinator } = await import("../coordinator/start.ts");
  const { eventText, scoreText } = await import("../coordinator/event-text.ts");
  const { signal, close } = interruptSignal();
  const onEvent = (event: Parameters<typeof eventText>[0]) => {
    const text = eventText(event);
    if (text !== undefined) log(text);
  };
  try {
    const result = await startCoordinator({
      ...flags,
      cacheFolder: defaultCacheFolder(),
      signal,
      onEvent,
      log,
    });
    const text = `finished: ${scoreText(result)} on the test set; adapter in ${result.runFolder}/adapter`;
    await printResult({ json: result, text }, flags.json ? { json: true } : {});
  } finally {
    close();
  }
}
