// Suite `transport`: the broker, the links and the fleet, on loopback and on emulated links.

import type { Row } from "./row.ts";
import { idleFleetRows, largeRoundRows, resendRows } from "./transport/fleet-rows.ts";
import { controlRows, goodputRows, lossRows } from "./transport/link-rows.ts";
import { idleDeviceRows, malformedRows, soakRows } from "./transport/robustness-rows.ts";
import { splitWorkerRows } from "./transport/split-rows.ts";
import type { Study, StudyOptions } from "./transport/study.ts";
import { bulkRows, roundTripRows } from "./transport/timing-rows.ts";

/** Studies by name, in the order in which they run. */
const studies: Readonly<Record<string, Study>> = {
  "round-trip": roundTripRows,
  bulk: bulkRows,
  goodput: goodputRows,
  loss: lossRows,
  control: controlRows,
  "idle-fleet": idleFleetRows,
  "large-round": largeRoundRows,
  "idle-device": idleDeviceRows,
  resend: resendRows,
  malformed: malformedRows,
  "split-workers": splitWorkerRows,
  soak: soakRows,
};

/** Runs every study, or the one that `only` names. */
export async function transportRows({
  only,
  log,
}: StudyOptions & { readonly only?: string }): Promise<readonly Row[]> {
  const names = Object.keys(studies);
  if (only !== undefined && !names.includes(only))
    throw new Error(`--only must be one of ${names.join(", ")}`);
  const rows: Row[] = [];
  for (const [name, study] of Object.entries(studies)) {
    if (only !== undefined && only !== name) continue;
    log(`${name} ...`);
    rows.push(...(await study({ log: (message) => log(`${name}: ${message}`) })));
  }
  return rows;
}
