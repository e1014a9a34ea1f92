// A run whose coordinator, or one of whose devices, is killed right after its N-th change on the disk, and which the same
// command then ends: what the journal held at the kill, what it holds at the end, and the adapter.
import { join } from "node:path";
import type { Test } from "tap";
import type { JournalRecord } from "../../apps/coordinator/journal.ts";
import { startBroker } from "../../broker/index.ts";
import { watchedDisk } from "./disk-plan.ts";
import { coordinatorOf, deviceHere, deviceOf, recordsOf } from "./killed-run.ts";
import type { Running } from "./program.ts";
import { adapterOf, type SmallDevice, type SmallWorld } from "./small-federation.ts";

/** A federation that is killed again and again. */
export interface KillWalk {
  readonly world: SmallWorld;
  readonly task: string;
  readonly devices: readonly SmallDevice[];
  /** Whose folder counts: the coordinator's run, or the state of that device. */
  readonly victim: "coordinator" | SmallDevice;
}

/** What one kill came to. */
export interface KilledAt {
  /** False when the victim ended before its N-th change. */
  readonly isKilled: boolean;
  /** The journal as the kill left it, and as the run did. */
  readonly before: readonly JournalRecord[];
  readonly after: readonly JournalRecord[];
  readonly adapter: Buffer;
  readonly stderr: string;
}

/** Runs the federation in `folder`, kills the victim after that many changes, starts it again, and waits for the end. */
export async function killAt(
  t: Test,
  walk: KillWalk,
  { folder, changes }: { readonly folder: string; readonly changes: number },
): Promise<KilledAt> {
  const { world, task, devices, victim } = walk;
  const broker = await startBroker({ log: () => {} });
  const run = { world, task, folder };
  const place = ["--broker", broker.url];
  const isCoordinator = victim === "coordinator";
  const state = isCoordinator ? folder : join(`${folder}-devices`, `${victim.id}-state`);
  const watched = watchedDisk({ folder: state, killAfter: changes });
  const start = async (variables: Readonly<Record<string, string>>): Promise<Running> =>
    isCoordinator
      ? coordinatorOf(t, run, place, variables)
      : deviceOf(t, run, victim, broker.url, variables);
  const others = devices.filter((one) => one !== victim);
  const ends = others.map((one) => deviceHere(t, run, one, { address: broker.url }));
  const coordinator = isCoordinator ? undefined : coordinatorOf(t, run, place);
  try {
    const first = await start(watched);
    const { status, stderr } = await first.finished;
    const isKilled = first.process.signalCode === "SIGKILL";
    if (!isKilled && status !== 0) throw new Error(`change ${changes}: ${stderr}`);
    const before = await recordsOf(folder);
    const second = isKilled ? await start({}) : first;
    for (const running of [second, ...(coordinator ? [coordinator] : [])]) {
      const ended = await running.finished;
      if (ended.status !== 0) throw new Error(`change ${changes}: ${ended.stderr}`);
    }
    await Promise.all(ends);
    const after = await recordsOf(folder);
    return { isKilled, before, after, adapter: await adapterOf(folder), stderr };
  } finally {
    await broker.close();
  }
}

/** What is wrong with the journal of a run that was killed, if anything: a line lost, an upload twice or in vain, a round twice. */
export function journalFault({ before, after }: KilledAt): string | undefined {
  const text = (records: readonly JournalRecord[]) => records.map((one) => JSON.stringify(one));
  const [held, ended] = [text(before), text(after)];
  if (held.some((line, i) => line !== ended[i])) return "the journal lost a line";
  const closed = after.flatMap((one) => (one.kind === "closed" ? [one.round] : []));
  if (new Set(closed).size !== closed.length) return `rounds closed: ${closed}`;
  const uploads = after.flatMap((one) =>
    one.kind === "upload" ? [`${one.deviceId} ${one.lane} ${one.sequence}`] : [],
  );
  if (new Set(uploads).size !== uploads.length) return `uploads: ${uploads}`;
  const counted = after.flatMap((one) =>
    one.kind === "closed" ? Object.entries(one.accepted).map(([id, lane]) => `${id} ${lane}`) : [],
  );
  const finished = before.flatMap((one) =>
    one.kind === "result" || one.kind === "report" ? [`${one.deviceId} ${one.lane}`] : [],
  );
  const lost = finished.find((lane) => !counted.includes(lane));
  return lost === undefined ? undefined : `lane ${lost} was finished and is not counted`;
}
