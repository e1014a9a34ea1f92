// The message that starts a device's lane, with what the device hears beside it.
import { labelOf } from "../../protocols/index.ts";
import type { StartNews } from "../control-messages.ts";
import type { DeskOptions } from "./course.ts";
import type { ReadyDevice } from "./fleet.ts";
import type { JournaledLane } from "./open-lane.ts";

/** Starts a device in its lane; resolves once it has answered. */
export async function startLane(
  { id, link, gone }: ReadyDevice,
  { info, assignment: own, first }: JournaledLane,
  { news, ...options }: StartOptions & { readonly news: StartNews },
): Promise<void> {
  const { task, acceptedLanes, lastAccepted, onEvent, signal } = options;
  const { globalStep, acceptedLane: _former, ...place } = info;
  const { deviceId: _, ...assignment } = own;
  const { tensors, blobs = new Map(), ...payload } = first;
  onEvent({ kind: "started", deviceId: id, lane: place.lane, protocol: assignment.protocol });
  const acceptedLane = acceptedLanes.get(id) ?? 0;
  const former = lastAccepted(id);
  const isReassigned = former !== undefined && former !== labelOf(own);
  const fields = { ...assignment, globalStep, acceptedLane, isReassigned, payload, ...news };
  await link.request(
    { ...place, kind: "start", task: task.name, fields, tensors, blobs },
    { signal: AbortSignal.any([signal, gone]) },
  );
}

type StartOptions = Pick<
  DeskOptions,
  "task" | "acceptedLanes" | "lastAccepted" | "onEvent" | "signal"
>;
