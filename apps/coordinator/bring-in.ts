// How a device that appeared becomes one that can take part: it is asked what it is, told the task, assigned what it does, and
// has fetched what it needs for that.
import type { Link } from "../../broker/index.ts";
import { parseBudget, parseProfile } from "../../devices/index.ts";
import {
  type Assignment,
  protocolErrors,
  requireAssignment,
  taskFingerprint,
} from "../../protocols/index.ts";
import { descriptionSchema, readFields, readySchema } from "../control-messages.ts";
import type { FleetOptions, ReadyDevice } from "./fleet.ts";

/** What a device turned out to be. */
export type BroughtIn = Pick<
  ReadyDevice,
  "profile" | "budget" | "selection" | "assignment" | "examples" | "offer" | "delivers"
>;

/** Asks a device what it is, tells it the task, decides what it does and waits until it is ready for that. Throws what makes it unfit. */
export async function bringIn(
  id: string,
  link: Link,
  { task, assign, onEvent }: Pick<FleetOptions, "task" | "assign" | "onEvent">,
  signal: AbortSignal,
): Promise<BroughtIn> {
  const description = readFields(
    await link.request({ kind: "describe" }, { signal }),
    descriptionSchema,
  );
  const profile = parseProfile(description.profile, `device ${id}: profile`);
  const budget = parseBudget(description.budget, `device ${id}: budget`);
  const fields = { task: task as unknown as Readonly<Record<string, unknown>> };
  const answer = readFields(
    await link.request({ kind: "prepare", fields }, { signal }),
    readySchema,
  );
  if (answer.fingerprint !== taskFingerprint(task)) {
    throw protocolErrors.error("TASK_INVALID", `device ${id} understood another task`, {
      hint: "Install the same version of Trifold on the coordinator and on the device.",
    });
  }
  const { profile: _, ...declared } = description;
  const { fetchesModel = false, ownModel } = answer;
  const models = { hasModel: answer.hasModel || fetchesModel, ownModel };
  const texts = { train: answer.examples, holdOut: answer.holdOut };
  const offer = { ...declared, deviceId: id, profile, budget, ...texts, ...models };
  const selection = assign(offer);
  const assignment = requireAssignment(id, selection);
  if (fetchesModel) {
    onEvent({ kind: "provisioning", deviceId: id });
    await link.request({ kind: "provide", fields: wantedFor(assignment) }, { signal });
  }
  const { examples, delivers } = answer;
  return { profile, budget, selection, assignment, examples, offer, delivers };
}

function wantedFor({ protocol, protocolVersion, cutLayer }: Assignment) {
  return { protocol, protocolVersion, ...(cutLayer === undefined ? {} : { cutLayer }) };
}
