// What the engine asks of its worker thread, typed once for both ends.
import type { Graph } from "../graph/ir.ts";
import type { FileTensor, Float32Tensor, Int8Tensor, Int64Tensor } from "../tensor.ts";

/** A tensor between threads; it owns its whole buffer. */
export type WireTensor = Float32Tensor | Int64Tensor | Int8Tensor;

/** What goes in: a tensor, or a place in a file that the worker reads. */
export type WireFeed = WireTensor | FileTensor;

/** Settings of one ONNX Runtime session. */
export interface SessionSettings {
  readonly threads: number;
  readonly prepacking: boolean;
  readonly enableCpuMemArena: boolean;
  /** Best first. */
  readonly providers: readonly string[];
}

/** Calls by kind: what goes to the worker and what comes back. `session` is a number the engine chose. */
export interface WorkerCalls {
  readonly load: {
    readonly request: {
      readonly session: number;
      readonly graph: Graph;
      readonly settings: SessionSettings;
    };
    readonly reply: undefined;
  };
  readonly run: {
    readonly request: {
      readonly session: number;
      readonly feeds: ReadonlyMap<string, WireFeed>;
      readonly outputs: readonly string[];
    };
    /** `spent` holds the feeds' buffers, which the caller uses again: garbage of that size stays for long. */
    readonly reply: {
      readonly outputs: ReadonlyMap<string, WireTensor>;
      readonly spent: readonly ArrayBuffer[];
    };
  };
  readonly release: {
    readonly request: { readonly session: number };
    readonly reply: undefined;
  };
}

/** Name of a call. */
export type CallKind = keyof WorkerCalls;

/** A call on its way to the worker. */
export type Request = {
  [K in CallKind]: { readonly kind: K; readonly body: WorkerCalls[K]["request"] };
}[CallKind];

/** The answer to the request before it. */
export type Reply =
  | { readonly kind: "done"; readonly body: WorkerCalls[CallKind]["reply"] }
  | { readonly kind: "failed"; readonly message: string; readonly code?: string };

/** The buffers that a message hands over instead of copying; each once. */
export function buffersOf(tensors: ReadonlyMap<string, WireFeed>): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const feed of tensors.values()) {
    if ("data" in feed && feed.data.buffer instanceof ArrayBuffer) buffers.add(feed.data.buffer);
  }
  return [...buffers];
}

/** `data` itself if it fills its buffer, else a copy that does. */
export function owned<T extends WireTensor["data"]>(data: T): T {
  const whole = data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength;
  return whole ? data : (data.slice() as T);
}
