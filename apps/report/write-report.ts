// The two report files of a run folder.
import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/index.ts";
import { reportPage } from "./html.ts";
import type { RunReport } from "./run-report.ts";

/** Writes report.json and report.html, in place of those that are there. */
export async function writeReport(runFolder: string, report: RunReport): Promise<void> {
  const json = `${JSON.stringify(report, undefined, 2)}\n`;
  await writeFileAtomic(join(runFolder, "report.json"), json);
  await writeFileAtomic(join(runFolder, "report.html"), reportPage(report));
}
