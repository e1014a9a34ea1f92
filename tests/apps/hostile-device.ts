// A device that joins as the device program does and then says what it likes.
import {
  announcePresence,
  connectMqtt,
  createLink,
  deviceLinkTopics,
  type Envelope,
  type Link,
  presenceWill,
  type Reply,
  type Transport,
  topicsOf,
} from "../../broker/index.ts";
import { boardProfile } from "../../devices/index.ts";
import { builtInProtocols, parseTask, type Task, taskFingerprint } from "../../protocols/index.ts";

/** How it takes part. */
export interface HostileOptions {
  readonly url: string;
  readonly id: string;
  /** Called once for each lane that the coordinator starts. */
  readonly onStart: (start: Envelope, device: HostileDevice) => void;
}

/** It, connected. */
export interface HostileDevice {
  readonly link: Link;
  readonly transport: Transport;
  /** Topic that it speaks on. */
  readonly outbound: string;
  /** That it was told; throws before. */
  task(): Task;
  close(): Promise<void>;
}

/** Joins the federation of the tests; the coordinator takes it for a device like any other. */
export async function startHostileDevice(options: HostileOptions): Promise<HostileDevice> {
  const { url, id, onStart } = options;
  const federation = "main";
  const log = () => {};
  const topic = topicsOf(federation).device(id, "status");
  const identity = { topic, instance: "0123456789abcdef", counter: 1, version: "1" };
  const transport = await connectMqtt({ url, clientId: id, will: presenceWill(identity), log });
  const topics = deviceLinkTopics(federation, id);
  let task: Task | undefined;
  const answer = async (request: Envelope): Promise<Reply> => {
    if (request.kind === "describe") return { kind: "description", fields: description() };
    if (request.kind === "prepare") {
      task = parseTask(request.fields["task"]);
      return { kind: "ready", fields: readiness(task) };
    }
    // After the reply: a lane's messages are welcome once it has begun.
    if (request.kind === "start") setImmediate(() => onStart(request, device));
    return { kind: request.kind };
  };
  const peers = { self: id, peer: "coordinator", federation };
  const link = await createLink({ transport, ...peers, ...topics, onRequest: answer, log });
  const close = async (): Promise<void> => {
    await presence.close();
    await link.close();
    await transport.close();
  };
  const known = (): Task => {
    if (!task) throw new Error("the coordinator has told no task yet");
    return task;
  };
  const { outbound } = topics;
  const device: HostileDevice = { link, transport, outbound, task: known, close };
  const presence = await announcePresence({ transport, identity, onReplaced: () => {}, log });
  return device;
}

function description(): Readonly<Record<string, unknown>> {
  const protocols = Object.fromEntries(
    builtInProtocols.map(({ name, version }) => [name, version]),
  );
  return { profile: boardProfile("pi-5"), budget: {}, protocols };
}

function readiness(task: Task): Readonly<Record<string, unknown>> {
  const fingerprint = taskFingerprint(task);
  return { examples: 16, holdOut: 4, hasModel: true, fingerprint };
}
