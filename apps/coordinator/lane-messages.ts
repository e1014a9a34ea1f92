// The messages of a device within its lane, each one processed once and in its turn.
import type { Envelope, Reply } from "../../broker/index.ts";
import { protocolErrors } from "../../protocols/index.ts";
import type { DeskOptions } from "./course.ts";
import type { JournaledLane } from "./open-lane.ts";

/** Passes a message to its device's lane and gives the answer; throws `PROTOCOL_OUT_OF_TURN` where there is none. */
export async function takeLaneMessage(
  { fleet, onEvent, signal: ending }: Pick<DeskOptions, "fleet" | "onEvent" | "signal">,
  lanes: ReadonlyMap<string, JournaledLane>,
  { deviceId, request, signal }: LaneMessage,
): Promise<Reply> {
  const device = fleet.ready.get(deviceId);
  const lane = lanes.get(deviceId);
  if (!device || !lane) {
    throw protocolErrors.error(
      "PROTOCOL_OUT_OF_TURN",
      `device ${deviceId} has no lane in this round`,
    );
  }
  return device.inbox.accept(request, async (payload, sequence) => {
    const answer = await lane.process(payload, sequence, signal).catch(async (error: unknown) => {
      // A coordinator that is told to stop owes no answer: the device asks the one that comes back.
      if (ending.aborted) await aborted(signal);
      throw error;
    });
    onEvent({ kind: "progress", deviceId, messages: sequence });
    return answer;
  });
}

/** A device's request; the signal is aborted when nobody waits for the answer any more. */
interface LaneMessage {
  readonly deviceId: string;
  readonly request: Envelope;
  readonly signal: AbortSignal;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
