// Where the coordinator is: a line in the device's log, and the end of a device that the end of its run did not reach.
import { z } from "zod";
import { type Log, type Transport, topicsOf, watchPeer } from "../../broker/index.ts";

/** What a coordinator's status says of its run, beside other things. */
const runSchema = z.object({ task: z.string().max(256), finished: z.literal(true) });

/** Who watches. */
export interface CoordinatorWatchOptions {
  readonly transport: Transport;
  readonly federation: string;
  /** Name of the task that this process was told to prepare for. */
  readonly task: () => string | undefined;
  /** That task has ended, and its coordinator is gone: nobody will say so any more. */
  readonly onFinished: () => void;
  readonly log: Log;
}

/** Follows the coordinator's status until what it gives is called. */
export function watchCoordinator(options: CoordinatorWatchOptions): Promise<() => void> {
  const { transport, federation, task, onFinished, log } = options;
  const topic = topicsOf(federation).coordinatorStatus;
  let last = "online";
  return watchPeer({
    transport,
    topic,
    log,
    onChange: (status) => {
      const finished = runSchema.safeParse(status?.details).data?.task;
      const state = status?.state ?? "offline";
      if (state === "offline" && finished !== undefined && finished === task()) {
        log(`the coordinator has ended task ${JSON.stringify(finished)} and left`);
        onFinished();
        return;
      }
      if (state !== last) log(lines[state]);
      last = state;
    },
  });
}

const lines = {
  online: "the coordinator is there",
  offline: "the coordinator has stopped: waiting for the next one",
  lost: "the coordinator is lost: waiting for it to come back",
} as const;
