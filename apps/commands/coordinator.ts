// `trifold coordinator`: runs a task with the devices that join.
import type { Command } from "commander";
import { defaultCacheFolder } from "../cache-folder.ts";
import { log, printResult } from "../command-result.ts";
import type { CoordinatorFlags } from "../coordinator/start.ts";
import { interruptSignal } from "../interrupt.ts";
import { listenerOptions } from "./listener-options.ts";
import { examples, several, wholeNumber } from "./option-values.ts";

interface Flags extends CoordinatorFlags {
  readonly json?: boolean;
}

/** Registers `coordinator`. */
export function coordinatorCommand(program: Command): void {
  const command = program
    .command("coordinator")
    .summary("run a task with the devices that join")
    .description(
      "Runs the rounds of a task and saves the adapter in the run folder. The same command goes on after any\nstop or crash. Without --broker it listens itself, beyond this machine only with client certificates\n(--keys, or --ca with --cert and --key) or passwords (--credentials).",
    )
    .requiredOption("--task <file>", "task file (YAML)")
    .option("--run <folder>", "run folder", "run");
  listenerOptions(command)
    .option("--broker <url>", "another broker to use in place of the embedded one")
    .option(
      "--trust-broker",
      "use --broker without trying whether others may command devices there",
    )
    .option(
      "--visitor-password-file <file>",
      "file with the password of the user visitor, with which that is tried (default: visitor.pem of --keys)",
    )
    .option("--federation <name>", "name that coordinator and devices share", "main")
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
        "coordinator --task task.yaml --listen mqtts://0.0.0.0:8883 --keys ./keys",
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
