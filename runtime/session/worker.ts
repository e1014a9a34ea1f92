// The worker thread's program: ONNX Runtime sessions by number. `run()` of onnxruntime-node blocks its
// thread, hence this one. The channel sends the next call only after the answer to the last.
import { resolve } from "node:path";
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { TrifoldError } from "../errors.ts";
import { exportOnnx } from "../onnx/export.ts";
import { fileReader } from "./file-reader.ts";
import {
  buffersOf,
  type CallKind,
  owned,
  type Reply,
  type Request,
  type SessionSettings,
  type WireFeed,
  type WireTensor,
  type WorkerCalls,
} from "./worker-calls.ts";
import type { WorkerStart } from "./worker-channel.ts";

if (isMainThread || parentPort === null) {
  throw new Error("session/worker must run in a worker thread: it would block the event loop");
}
const port = parentPort;
const { busy } = workerData as WorkerStart;
const sessions = new Map<number, InferenceSession>();
const files = fileReader();

type Handlers = {
  readonly [K in CallKind]: (body: WorkerCalls[K]["request"]) => Promise<WorkerCalls[K]["reply"]>;
};

const handlers: Handlers = {
  load: async ({ session, graph, settings }) => {
    // Here, for it takes some 20 ms for GPT-2 that the event loop of the program would stand still.
    const { model, weightsFolder } = exportOnnx(graph);
    const folder = weightsFolder === undefined ? undefined : resolve(weightsFolder);
    const options = sessionOptions(settings, folder);
    sessions.set(session, await InferenceSession.create(model, options));
    return undefined;
  },
  run: async ({ session, feeds, outputs }) => {
    const inputs = Object.fromEntries([...feeds].map(([name, feed]) => [name, toOrt(name, feed)]));
    const results = await find(session).run(inputs, outputs);
    return {
      outputs: new Map(outputs.map((name) => [name, fromOrt(name, results[name])])),
      spent: buffersOf(feeds),
    };
  },
  release: async ({ session }) => {
    await find(session).release();
    sessions.delete(session);
    if (sessions.size === 0) files.close();
    return undefined;
  },
};

port.on("message", async (request: Request) => {
  const reply = await answer(request);
  Atomics.store(busy, 0, 0);
  Atomics.notify(busy, 0);
  const body = reply.kind === "done" ? reply.body : undefined;
  port.postMessage(reply, body ? [...buffersOf(body.outputs), ...body.spent] : []);
});

async function answer(request: Request): Promise<Reply> {
  try {
    return { kind: "done", body: await handle(request) };
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    const code = cause instanceof TrifoldError ? { code: cause.code } : {};
    return { kind: "failed", message, ...code };
  }
}

function handle(request: Request): Promise<WorkerCalls[CallKind]["reply"]> {
  switch (request.kind) {
    case "load":
      return handlers.load(request.body);
    case "run":
      return handlers.run(request.body);
    case "release":
      return handlers.release(request.body);
  }
}

/** Session options that keep weights mapped from their file and share the machine with others; measured on GPT-2. */
function sessionOptions(
  { threads, prepacking, enableCpuMemArena, providers }: SessionSettings,
  weightsFolder: string | undefined,
): InferenceSession.SessionOptions {
  return {
    executionProviders: [...providers],
    executionMode: "sequential",
    graphOptimizationLevel: "all",
    intraOpNumThreads: threads,
    enableCpuMemArena,
    enableMemPattern: false,
    // Fatal only: errors come back as exceptions, the log would repeat them on standard error.
    logSeverityLevel: 4,
    extra: {
      session: {
        // Prepacked weights are copies in memory: 12% faster, twice the memory.
        disable_prepacking: prepacking ? "0" : "1",
        // Waiting threads that spin slow everyone else on a shared machine down.
        "intra_op.allow_spinning": "0",
        // Would quantise activations of int8 layers, so that gradients no longer match.
        disable_quant_qdq: "1",
        // Maps the weights file although the model itself comes from memory: nothing is written to disk.
        ...(weightsFolder ? { model_external_initializers_file_folder_path: weightsFolder } : {}),
      },
    },
  };
}

function find(session: number): InferenceSession {
  const found = sessions.get(session);
  if (!found) throw new Error(`No session ${session} is loaded`);
  return found;
}

function toOrt(name: string, feed: WireFeed): Tensor {
  const data = "data" in feed ? feed.data : files.read(name, feed);
  return new Tensor(feed.dtype, data, feed.shape);
}

/** The tensor over its own buffer, so that the buffer can be handed over. */
function fromOrt(name: string, value: Tensor | undefined): WireTensor {
  const data = value?.data;
  const shape = value?.dims ?? [];
  if (data instanceof Float32Array) return { dtype: "float32", shape, data: owned(data) };
  if (data instanceof BigInt64Array) return { dtype: "int64", shape, data: owned(data) };
  throw new Error(`Output ${name} is ${value?.type ?? "absent"}, expected float32 or int64`);
}
