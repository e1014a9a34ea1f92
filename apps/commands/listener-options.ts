// Options of the commands that listen themselves.
import type { Command } from "commander";
import { several } from "./option-values.ts";

/** Where the embedded broker listens, whom it lets in and what it keeps. */
export function listenerOptions(command: Command): Command {
  return command
    .option(
      "--listen <url>",
      "mqtt, mqtts, ws or wss address of the embedded broker; may be repeated; port 0 takes a free one (default: mqtt://127.0.0.1:1883)",
      several,
    )
    .option(
      "--keys <folder>",
      "folder of `trifold keys`: clients then show certificates, and revocations count at once",
    )
    .option("--credentials <file>", "name:password lines, one for each device and for coordinator")
    .option("--anonymous", "let in every program of this machine; on loopback addresses only")
    .option(
      "--persistence <folder>",
      "where the embedded broker's retained messages outlive its restart (default: in memory)",
    );
}
