// How a run ends: the adapter and the report are saved, and every device that takes part hears of it.
import { setMaxListeners } from "node:events";
import { join } from "node:path";
import { headOf } from "../../protocols/index.ts";
import { type Parameters, type Score, saveAdapter } from "../../runtime/index.ts";
import { withPatience } from "../patience.ts";
import { runReport } from "../report/run-report.ts";
import { writeReport } from "../report/write-report.ts";
import { journalFile, readJournal } from "./journal.ts";
import { returnMs } from "./round-runner.ts";
import { clearRows } from "./row-folders.ts";
import type { Run } from "./run.ts";

/** Saves the adapter and the run in figures, then tells the devices; `unaware` have not heard of the end. */
export async function endRun(
  run: Run,
  parameters: Parameters,
  { score, unaware }: { readonly score: Score; readonly unaware: readonly string[] },
): Promise<void> {
  const { prepared, folder, onEvent, presence } = run;
  const { name, training } = prepared.task;
  await saveResult(run, parameters);
  await folder.guarded(() => clearRows(folder.path));
  const { rounds } = training;
  await presence.update({ task: name, round: rounds, rounds, ...score, finished: true });
  await devicesBack(run, unaware);
  await tellDevices(run, "finish", () => ({}));
  if (unaware.length > 0) await folder.journal.append({ kind: "finished" });
  onEvent({ kind: "finished", ...score });
}

/** Tells every ready device something; one that leaves, or does not answer within 10 s, is not waited for. */
export async function tellDevices(
  { fleet, log, signal }: Run,
  kind: string,
  fieldsFor: (deviceId: string) => Readonly<Record<string, unknown>>,
): Promise<void> {
  await withPatience(signal, 10_000, async (patience) => {
    // Every device's request listens to it: more than the ten from which Node suspects a leak.
    setMaxListeners(0, patience);
    const told = [...fleet.ready.values()].map(async ({ id, link, gone }) => {
      try {
        const either = AbortSignal.any([patience, gone]);
        await link.request({ kind, fields: fieldsFor(id) }, { signal: either });
      } catch (error) {
        if (gone.aborted) return;
        log(`${id} did not answer "${kind}": ${error instanceof Error ? error.message : error}`);
      }
    });
    await Promise.all(told);
  });
}

/** Devices may be on their way back after a restart or a lost connection, and would wait for a next round for ever. */
async function devicesBack({ fleet, signal }: Run, ids: readonly string[]): Promise<void> {
  const isMissing = () => ids.some((id) => !fleet.ready.has(id) && !fleet.hasLeft(id));
  await withPatience(signal, returnMs, async (patience) => {
    while (isMissing() && !patience.aborted) await fleet.changed(patience);
  });
  signal.throwIfAborted();
}

/** The adapter, and the run in figures. */
async function saveResult({ prepared, folder, fleet }: Run, parameters: Parameters): Promise<void> {
  const { task, model, modelFolder } = prepared;
  await folder.guarded(() =>
    saveAdapter(join(folder.path, "adapter"), {
      lora: task.adapter,
      head: headOf(task),
      parameters,
      ...(task.head.kind === "lm" ? {} : { labels: task.head.labels }),
      baseModelName: modelFolder,
      baseModelSha256: model.sha256,
    }),
  );
  await folder.saveProfiles(fleet.ready.values());
  const report = runReport(await readJournal(journalFile(folder.path)), task);
  await folder.guarded(() => writeReport(folder.path, report));
}
