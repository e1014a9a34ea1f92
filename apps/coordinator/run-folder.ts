// The run folder: everything a run needs to go on after a crash, and everything it leaves behind.
//   task.json  profiles.json  metrics.jsonl  journal/  checkpoints/  adapter/  report.json  report.html
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
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
  type Parameters,
  readParameterFile,
  writeFileAtomic,
  writeSafetensors,
} from "../../runtime/index.ts";
import { type Checkpoints, openCheckpoints } from "./checkpoints.ts";
import { coordinatorErrors } from "./errors.ts";
import { type Journal, journalFile, openJournal } from "./journal.ts";
import { type Metrics, openMetrics } from "./metrics.ts";
import { lockRunFolder } from "./run-lock.ts";

/** A run folder that this process owns. */
export interface RunFolder {
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
  const uploads = join(path, "journal", "uploads");
  let checkpoints: Checkpoints;
  try {
    await mkdir(uploads, { recursive: true });
    checkpoints = await openCheckpoints(path);
  } catch (cause) {
    throw coordinatorErrors.error("RUN_FOLDER_UNUSABLE", `cannot create the run folder ${path}`, {
      hint: "Give a folder on a disk with room that this user may write to.",
      cause,
    });
  }
  const release = await lockRunFolder(path);
  try {
    await checkTask(join(path, "task.json"), task);
    const journal = await openJournal(journalFile(path));
    const upload = (name: string) => join(uploads, name);
    return {
      path,
      incomingFolder: join(path, "journal", "incoming"),
      journal,
      checkpoint: await lastCheckpoint(checkpoints, journal),
      saveCheckpoint: (global) => checkpoints.save(global),
      globalAfter: (round) => globalAfter(checkpoints, round, task),
      saveUpload: async (name, bytes) => {
        await writeFileAtomic(upload(name), bytes);
        return name;
      },
      readUpload: (name) => readFile(upload(name)),
      saveUpdate: async (name, update) => {
        await writeSafetensors(upload(name), update);
        return name;
      },
      readUpdate: (name) => readParameterFile(upload(name)),
      clearUploads: async (isNeeded) => {
        for (const name of await readdir(uploads))
          if (!isNeeded(name)) await rm(upload(name), { force: true });
      },
      metrics: await openMetrics(join(path, "metrics.jsonl"), journal.records),
      saveProfiles: (devices) => saveProfiles(join(path, "profiles.json"), devices),
      close: async () => {
        await journal.close();
        await release();
      },
    };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Written again only when something was added: every round asks. */
async function saveProfiles(path: string, devices: Iterable<DeviceFacts>): Promise<void> {
  const known = await readFile(path, "utf8").catch(() => "{}");
  const facts = new Map(Object.entries(JSON.parse(known) as Record<string, unknown>));
  for (const { id, profile, budget } of devices) facts.set(id, { profile, budget });
  const inOrder = [...facts].sort(([a], [b]) => compareDeviceIds(a, b));
  const text = `${JSON.stringify(Object.fromEntries(inOrder), undefined, 2)}\n`;
  if (text !== known) await writeFileAtomic(path, text);
}

async function checkTask(path: string, task: Task): Promise<void> {
  const known = await readFile(path, "utf8").catch(() => undefined);
  const content = `${JSON.stringify(task, undefined, 2)}\n`;
  if (known === undefined) return writeFileAtomic(path, content);
  if (taskFingerprint(JSON.parse(known) as Task) === taskFingerprint(task)) return;
  throw coordinatorErrors.error(
    "TASK_CHANGED",
    `${path} was started with other settings, data or model`,
    {
      hint: "Undo the change to go on with this run, or give another --run folder.",
    },
  );
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
