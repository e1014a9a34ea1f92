#!/usr/bin/env node
// The program `trifold`. Commands register themselves here and load what is heavy when they run, so that
// `--help` answers at once.
import { Command } from "commander";
import { benchCommand } from "./commands/bench.ts";
import { brokerCommand } from "./commands/broker.ts";
import { compareCommand } from "./commands/compare.ts";
import { coordinatorCommand } from "./commands/coordinator.ts";
import { demoCommand } from "./commands/demo.ts";
import { deviceCommand } from "./commands/device.ts";
import { evaluateCommand } from "./commands/evaluate.ts";
import { generateCommand } from "./commands/generate.ts";
import { importCommand } from "./commands/import.ts";
import { keysCommand } from "./commands/keys.ts";
import { profileCommand } from "./commands/profile.ts";
import { trainCommand } from "./commands/train.ts";
import { verifyCommand } from "./commands/verify.ts";
import { exitStatusOf, failureText } from "./failure.ts";
import { endInterrupted } from "./interrupt.ts";
import { packageVersion } from "./package-root.ts";

const commands = [
  demoCommand,
  coordinatorCommand,
  deviceCommand,
  compareCommand,
  trainCommand,
  evaluateCommand,
  importCommand,
  generateCommand,
  profileCommand,
  verifyCommand,
  benchCommand,
  brokerCommand,
  keysCommand,
];

const program = new Command("trifold")
  .description("Fine-tune language models on edge boards that keep their data.")
  .version(packageVersion())
  // Errors are printed below, in the form of all others.
  .configureOutput({ outputError: () => undefined })
  .exitOverride()
  .addHelpText(
    "after",
    "\nExit status: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.",
  );
for (const register of commands) register(program);

process.on("uncaughtException", end);
process.on("unhandledRejection", end);
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // The reader went away (`trifold profile | head`): nobody is left to tell.
  process.exit(error.code === "EPIPE" ? 0 : 1);
});

try {
  await program.parseAsync();
} catch (error) {
  fail(error);
}
await endInterrupted();

function fail(error: unknown): void {
  process.stderr.write(failureText(error, { debug: process.env["TRIFOLD_DEBUG"] === "1" }));
  process.exitCode = exitStatusOf(error);
}

/** For errors nobody awaited: the state is unknown, so nothing may go on. */
function end(error: unknown): void {
  fail(error);
  process.exit();
}
