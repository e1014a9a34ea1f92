// A worker process of the coordinator: an engine of its own and the coordinator end of `split`, whose lanes it runs. It ends
// with the coordinator, however that ends.
import { systemClock } from "../../broker/index.ts";
import {
  builtInProtocols,
  findProtocol,
  type GlobalModel,
  type Lane,
  type Payload,
  protocolErrors,
  type ServerSide,
} from "../../protocols/index.ts";
import { ortEngine, TrifoldError } from "../../runtime/index.ts";
import { guardFolder } from "./folder-guard.ts";
import { rowsIn } from "./row-folders.ts";
import type { WorkerReply, WorkerRequest, WorkerTask } from "./worker-calls.ts";

const lanes = new Map<number, Lane<Payload, Payload>>();
let server: Promise<ServerSide<Payload, Payload>> | undefined;
let global: GlobalModel | undefined;

// The channel ends with the coordinator, a kill included. Native code may be in the way of a polite end.
const end = () => process.kill(process.pid, "SIGKILL");
process.once("disconnect", end);
if (!process.connected) end();
// Ctrl-C reaches the whole group; the coordinator decides when its workers end.
process.on("SIGINT", () => {});
process.on("message", (message: WorkerTask | WorkerRequest) => {
  if (message.kind === "task") server = openServer(message);
  else void answer(message);
});

async function openServer({ task, model, threads, runFolder }: WorkerTask) {
  const version = builtInProtocols.find(({ name }) => name === "split")?.version ?? 0;
  const log = (line: string) => say({ kind: "log", line });
  const engine = ortEngine({ threads });
  const { after } = systemClock;
  const rowsOf = rowsIn(runFolder, guardFolder(runFolder), log);
  const context = { task, model, engine, publicSet: [], rowsOf, after, log };
  return await findProtocol(builtInProtocols, "split", version).createServer(context);
}

async function answer(request: WorkerRequest): Promise<void> {
  const { id } = request;
  try {
    say({ kind: "answer", id, answer: await run(request) });
  } catch (error) {
    const { code, hint } = error instanceof TrifoldError ? error : {};
    say({ kind: "error", id, code, hint, message: (error as Error).message });
  }
}

async function run(request: WorkerRequest): Promise<unknown> {
  if (request.kind === "open") return await open(request);
  const lane = lanes.get(request.lane);
  if (!lane) throw protocolErrors.error("PROTOCOL_OUT_OF_TURN", "split: the lane is closed");
  if (request.kind === "receive")
    return await lane.receive(request.ask, new AbortController().signal);
  if (request.kind === "finish") return await lane.finish();
  lanes.delete(request.lane);
  return await lane.close();
}

async function open({ lane, ask }: Extract<WorkerRequest, { kind: "open" }>): Promise<unknown> {
  // Before anything is waited for: a later call may bring the next one.
  global = ask.global ?? global;
  const begun = global as GlobalModel;
  const side = (await server) as ServerSide<Payload, Payload>;
  const opened = await side.openLane(ask.assignment, ask.info, begun);
  lanes.set(lane, opened);
  return { first: opened.first, resumable: opened.resumable };
}

function say(reply: WorkerReply): void {
  // A coordinator that is gone hears nothing; `disconnect` ends this process.
  process.send?.(reply, undefined, undefined, () => {});
}
