// The run folder: everything a run needs to go on after a crash, and everything it leaves behind.
//   task.json  profiles.json  metrics.jsonl  journal/  checkpoints/  rows/  adapter/  report.json  report.html
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import {
  compareDeviceIds,
  type GlobalModel,
  initialOf,
  type Task,
  taskFingerprint,
} from "../../protocols/index.ts";
import {
  makeFolder,
  type Parameters,
  readParameterFile,
  removeLeftovers,
  writeFileAtomic,
  writeSafetensors,
} from "../../runtime/index.ts";
import { type Checkpoints, openCheckpoints } from "./checkpoints.ts";
import { coordinatorErrors } from "./errors.ts";
import { type FolderGuard, guardFolder } from "./folder-guard.ts";
import { type Journal, journalFile, openJournal } from "./journal.ts";
import { type Metrics, openMetrics } from "./metrics.ts";
import { lockRunFolder, type Release } from "./run-lock.ts";

/** A run folder that this process owns. A write that fails stops the run. */
export interface RunFolder extends FolderGuard {
  readonly path: string;
  /** For what has come of messages that are not whole: lost without harm. */
  readonly incomingFolder: string;
  readonly journal: Journal;
  /** The last finished round's global model, undefined in a new run. */
  readonly checkpoint: GlobalModel | undefined;
  /** Writes the global model of a finished round; it survives a power cut once this resolves. */
  saveCheckpoint(global: GlobalModel): Promise<void>;
  /** The global model after so many rounds, which this folder has finished. */
  globalAfter(round: number): Promise<GlobalModel>;
  /** Writes a payload beside the journal and gives the name to record. */
  saveUpload(name: string, bytes: Uint8Array): Promise<string>;
  readUpload(name: string): Promise<Uint8Array>;
  /** Writes a lane's update and gives the name to record. */
  saveUpdate(name: string, update: Parameters): Promise<string>;
  readUpdate(name: string): Promise<Parameters>;
  /** Forgets the payloads of rounds that are closed, all but those that are still needed. */
  clearUploads(isNeeded: (name: string) => boolean): Promise<void>;
  readonly metrics: Metrics;
  /** Notes profile and budget of devices; those noted before stay. */
  saveProfiles(devices: Iterable<DeviceFacts>): Promise<void>;
  close(): Promise<void>;
}

/** What a device is and what its owner allows, as `profiles.json` keeps it by device id. */
export interface DeviceFacts {
  readonly id: string;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
}

/**
 * Creates or reopens a run folder for `task`. Throws `RUN_FOLDER_IN_USE`, `RUN_FOLDER_UNUSABLE`, or
 * `TASK_CHANGED` when the folder belongs to a task with other settings, data or model.
 */
export async function openRunFolder(path: string, task: Task): Promise<RunFolder> {
  const guard = guardFolder(path);
  const { checkpoints, release } = await guard.guarded(async () => {
    for (const folder of [path, join(path, "journal"), uploadsOf(path)]) await makeFolder(folder);
    const opened = await openCheckpoints(path);
    return { checkpoints: opened, release: await lockRunFolder(path) };
  });
  try {
    return await guard.guarded(() => openOwned({ path, task, guard, checkpoints, release }));
  } catch (error) {
    await release();
    throw error;
  }
}

interface OwnedFolder {
  readonly path: string;
  readonly task: Task;
  readonly guard: FolderGuard;
  readonly checkpoints: Checkpoints;
  readonly release: Release;
}

async function openOwned(owned: OwnedFolder): Promise<RunFolder> {
  const { path, task, guard, checkpoints, release } = owned;
  const { failed, guarded } = guard;
  await removeLeftovers(path);
  await checkTask(join(path, "task.json"), task);
  const journal = await openJournal(journalFile(path));
  const metrics = await openMetrics(join(path, "metrics.jsonl"), journal.records);
  return {
    path,
    incomingFolder: join(path, "journal", "incoming"),
    failed,
    guarded,
    journal: { ...journal, append: (record) => guarded(() => journal.append(record)) },
    checkpoint: await lastCheckpoint(checkpoints, journal),
    saveCheckpoint: (global) => guarded(() => checkpoints.save(global)),
    globalAfter: (round) => guarded(() => globalAfter(checkpoints, round, task)),
    ...uploadsIn(uploadsOf(path), guard),
    metrics: { append: (lines) => guarded(() => metrics.append(lines)) },
    saveProfiles: (devices) => guarded(() => saveProfiles(join(path, "profiles.json"), devices)),
    close: async () => {
      await journal.close();
      await release();
    },
  };
}

type Uploads = Pick<
  RunFolder,
  "saveUpload" | "readUpload" | "saveUpdate" | "readUpdate" | "clearUploads"
>;

function uploadsIn(folder: string, { guarded }: FolderGuard): Uploads {
  const upload = (name: string) => join(folder, name);
  return {
    saveUpload: async (name, bytes) => {
      await guarded(() => writeFileAtomic(upload(name), bytes));
      return name;
    },
    readUpload: (name) => guarded(() => readFile(upload(name))),
    saveUpdate: async (name, update) => {
      await guarded(() => writeSafetensors(upload(name), update));
      return name;
    },
    readUpdate: (name) => guarded(() => readParameterFile(upload(name))),
    clearUploads: (isNeeded) =>
      guarded(async () => {
        for (const name of await readdir(folder))
          if (!isNeeded(name)) await rm(upload(name), { force: true });
      }),
  };
}

function uploadsOf(path: string): string {
  return join(path, "journal", "uploads");
}

/** Written again only when something was added: every round asks. */
async function saveProfiles(path: string, devices: Iterable<DeviceFacts>): Promise<void> {
  const known = (await readText(path)) ?? "{}";
  const facts = new Map(Object.entries(parsed(path, known) as Record<string, unknown>));
  for (const { id, profile, budget } of devices) facts.set(id, { profile, budget });
  const inOrder = [...facts].sort(([a], [b]) => compareDeviceIds(a, b));
  const text = `${JSON.stringify(Object.fromEntries(inOrder), undefined, 2)}\n`;
  if (text !== known) await writeFileAtomic(path, text);
}

async function checkTask(path: string, task: Task): Promise<void> {
  const known = await readText(path);
  const content = `${JSON.stringify(task, undefined, 2)}\n`;
  if (known === undefined) return writeFileAtomic(path, content);
  if (taskFingerprint(parsed(path, known) as Task) === taskFingerprint(task)) return;
  throw coordinatorErrors.error(
    "TASK_CHANGED",
    `${path} was started with other settings, data or model`,
    {
      hint: "Undo the change to go on with this run, or give another --run folder.",
    },
  );
}

/** Undefined for a file that is not there; any other failure is one. */
async function readText(path: string): Promise<string | undefined> {
  return await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}

function parsed(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw coordinatorErrors.error("RUN_FOLDER_UNUSABLE", `${path} is not JSON`, {
      hint: "Restore the run folder from a copy, or start a new run in another folder.",
      cause,
    });
  }
}

/** The checkpoint that the journal says is finished: a later file may have been written just before a crash. */
async function lastCheckpoint(
  checkpoints: Checkpoints,
  journal: Journal,
): Promise<GlobalModel | undefined> {
  const closed = journal.records.findLast((record) => record.kind === "closed");
  return closed && checkpoints.read(closed.round);
}

async function globalAfter(
  checkpoints: Checkpoints,
  round: number,
  task: Task,
): Promise<GlobalModel> {
  return round === 0 ? { round, parameters: initialOf(task) } : checkpoints.read(round);
}
