// The programs of a run that a test kills: coordinator and devices as a person starts them, and the journal that they leave.
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { watch } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname } from "node:path";
import type { Test } from "tap";
import { type JournalRecord, journalFile, readJournal } from "../../apps/coordinator/journal.ts";
import { type ProgramLimits, type Running, startTrifold } from "./program.ts";
import { joinDevice, type SmallDevice, type SmallWorld, writeDevice } from "./small-federation.ts";

/** Where a run that may be killed takes place. */
export interface KilledRun {
  readonly world: SmallWorld;
  readonly task: string;
  readonly folder: string;
}

/** The coordinator as a person starts it. */
export function coordinatorOf(
  t: Pick<Test, "teardown">,
  { world, task, folder }: KilledRun,
  place: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  limits: ProgramLimits = {},
): Running {
  // Brokers of these tests let everyone do everything.
  const trust = place.includes("--broker") ? ["--trust-broker"] : [];
  const flags = ["--task", task, "--run", folder, "--threads", "1", "--json", ...trust];
  const environment = { TRIFOLD_CACHE: world.cacheFolder, ...variables };
  return started(t, startTrifold(["coordinator", ...flags, ...place], environment, limits));
}

/** A device as a person starts it; the same call starts it again. */
export async function deviceOf(
  t: Pick<Test, "teardown">,
  { world, task, folder }: KilledRun,
  smallDevice: SmallDevice,
  address: string,
  variables: Readonly<Record<string, string>> = {},
): Promise<Running> {
  const files = await writeDevice(world, smallDevice, { task, run: folder });
  const { id } = smallDevice;
  const flags = { broker: address, id, model: world.modelFolder, ...files };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const environment = { TRIFOLD_CACHE: world.cacheFolder, ...variables };
  return started(t, startTrifold(["device", ...args], environment));
}

/** A device in this process, at its address and with an ear for its log; gives the log once the task is finished. */
export function deviceHere(
  t: Pick<Test, "teardown">,
  { world, task, folder }: KilledRun,
  smallDevice: SmallDevice,
  { address, onLine = () => {} }: { readonly address: string; onLine?(line: string): void },
): Promise<{ readonly log: readonly string[] }> {
  const ending = new AbortController();
  t.teardown(() => ending.abort(new Error("the test is over")));
  const log: string[] = [];
  const note = (line: string): void => {
    log.push(line);
    onLine(line);
  };
  const place = { task, run: folder, address, signal: ending.signal };
  const ended = joinDevice(world, smallDevice, { ...place, log: note }).then(() => ({ log }));
  // A test that fails does not wait for its devices.
  ended.catch(() => {});
  return ended;
}

/** Ends it now. */
export async function kill({ process, finished }: Running): Promise<void> {
  process.kill("SIGKILL");
  await finished;
}

/** A free port for a listener that must come back to it: below those of outgoing connections and of port 0 (from 32768, ip(7)), which might take it meanwhile. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 32_000);
    const server = createServer().listen(port, "127.0.0.1");
    try {
      await once(server, "listening");
    } catch {
      // Somebody is there.
      continue;
    }
    server.close();
    await once(server, "close");
    return port;
  }
}

/** Waits until the journal holds a record that fits. */
export async function journaled(
  folder: string,
  fits: (record: JournalRecord) => boolean,
): Promise<JournalRecord> {
  await mkdir(dirname(journalFile(folder)), { recursive: true });
  const watcher = watch(dirname(journalFile(folder)));
  try {
    for (;;) {
      const changed = once(watcher, "change");
      const found = (await recordsOf(folder)).find(fits);
      if (found) return found;
      await changed;
    }
  } finally {
    watcher.close();
  }
}

/** The journal so far. */
export function recordsOf(folder: string): Promise<readonly JournalRecord[]> {
  return readJournal(journalFile(folder));
}

/** Ends with the test, whatever becomes of it. */
function started(t: Pick<Test, "teardown">, running: Running): Running {
  t.teardown(() => void running.process.kill("SIGKILL"));
  return running;
}
