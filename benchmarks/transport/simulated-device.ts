// A device without a board: it speaks as the device program does and gives a prepared update in the place of training.
import {
  announcePresence,
  connectMqtt,
  createLink,
  createRoundLink,
  deviceLinkTopics,
  type Envelope,
  type Link,
  presenceWill,
  type Reply,
  topicsOf,
} from "../../broker/index.ts";
import { boardProfile } from "../../devices/index.ts";
import {
  builtInProtocols,
  type Payload,
  parseTask,
  type Task,
  taskFingerprint,
} from "../../protocols/index.ts";

/** What it is told to be. */
export interface SimulatedOptions {
  readonly url: string;
  readonly id: string;
  /** Its update; the task is what it was told. */
  readonly update: (task: Task) => Payload;
  /** Told once the coordinator has its update and its report. */
  readonly onDelivered?: () => void;
}

/** A simulated device that takes part. */
export interface SimulatedDevice {
  readonly link: Link;
  close(): Promise<void>;
}

const federation = "main";

/** Joins the federation; resolves once it is announced. */
export async function startSimulatedDevice(options: SimulatedOptions): Promise<SimulatedDevice> {
  const { url, id } = options;
  const log = () => {};
  const topic = topicsOf(federation).device(id, "status");
  const instance = Buffer.from(id.padEnd(8, "-").slice(-8)).toString("hex");
  const identity = { topic, instance, counter: 1, version: "1" };
  const transport = await connectMqtt({ url, clientId: id, will: presenceWill(identity), log });
  let task: Task | undefined;
  // One that is started again goes on, after a restart of the coordinator.
  let lane = 0;
  const answer = async (request: Envelope): Promise<Reply> => {
    if (request.kind === "describe") return { kind: "description", fields: description };
    if (request.kind === "prepare") {
      task = parseTask(request.fields["task"]);
      return { kind: "ready", fields: readiness(task) };
    }
    if (request.kind === "start" && request.lane > lane) {
      lane = request.lane;
      // After the reply: a lane's messages are welcome once it has begun.
      setImmediate(() => void deliver(request).catch(() => {}));
    }
    return { kind: request.kind };
  };
  const peers = { self: id, peer: "coordinator", federation };
  const topics = deviceLinkTopics(federation, id);
  const link = await createLink({ transport, ...peers, ...topics, onRequest: answer, log });
  const presence = await announcePresence({ transport, identity, onReplaced: () => {}, log });
  const deliver = async (start: Envelope): Promise<void> => {
    if (!task) return;
    const place = { round: start.round, attempt: start.attempt, lane: start.lane };
    const { signal } = new AbortController();
    const parseDown = (payload: Payload) => payload;
    const messages = createRoundLink({ link, task: task.name, place, parseDown, signal });
    await messages.send(options.update(task));
    await link.request({ ...place, kind: "report", fields: report });
    options.onDelivered?.();
  };
  const close = async (): Promise<void> => {
    await presence.close();
    await link.close();
    await transport.close();
  };
  return { link, close };
}

const description = {
  profile: boardProfile("pi-5"),
  budget: {},
  protocols: Object.fromEntries(builtInProtocols.map(({ name, version }) => [name, version])),
};

function readiness(task: Task): Readonly<Record<string, unknown>> {
  const fingerprint = taskFingerprint(task);
  return { examples: 16, holdOut: 4, hasModel: true, fingerprint };
}

const report = {
  ...{ examples: 16, examplesSeen: 48, steps: 3, loss: 0.5, flops: 1e6, trainSeconds: 0.1 },
  ...{ peakMemoryBytes: 1, idleMemoryBytes: 1, uplinkBytes: 1, downlinkBytes: 1 },
  ...{ rawUplinkBytes: 1, rawDownlinkBytes: 1, provisioningBytes: 0, repeatedBytes: 0 },
};
