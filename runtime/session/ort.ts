// The engine that boards run: stock ONNX Runtime in a worker thread, one worker for all sessions.
import { availableParallelism } from "node:os";
import { extname } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { runtimeErrors } from "../errors.ts";
import { checkGraph } from "../graph/check.ts";
import type { Graph } from "../graph/ir.ts";
import { type BufferPool, bufferPool } from "./buffer-pool.ts";
import type { Engine, Feeds, Session } from "./engine.ts";
import { checkFeeds, chooseOutputs } from "./feeds.ts";
import type { ProviderName } from "./providers.ts";
import { buffersOf, type SessionSettings, type WireFeed } from "./worker-calls.ts";
import { openWorkerChannel, type WorkerChannel } from "./worker-channel.ts";

/** Settings of the ONNX Runtime engine. */
export interface OrtEngineOptions {
  /** Threads of one operator; default: the processors this process may use. Equal counts give equal bytes. */
  readonly threads?: number;
  /** Keep rearranged copies of the weights: about 12% faster, twice the memory. Default false. */
  readonly prepacking?: boolean;
  /** Let ONNX Runtime keep freed memory for the next run. Default true. */
  readonly enableCpuMemArena?: boolean;
  /** Execution providers, best first, that `chooseProviders` found to work; one that does not fails every load. Default: the CPU. */
  readonly providers?: readonly ProviderName[];
  /**
   * Gives up what runs and waits, with the signal's reason, and lets `close` return without waiting for native code.
   * For a process that is about to end: the native call goes on until then.
   */
  readonly signal?: AbortSignal;
}

/** An engine on stock ONNX Runtime. The thread starts at the first load; a thread that dies fails every later call with `SESSION_FAILED`. */
export function ortEngine({
  threads = availableParallelism(),
  prepacking = false,
  enableCpuMemArena = true,
  providers = ["cpu"],
  signal,
}: OrtEngineOptions = {}): Engine {
  const settings = { threads, prepacking, enableCpuMemArena, providers };
  let channel: WorkerChannel | undefined;
  let closed = false;
  let lastSession = 0;
  const buffers = bufferPool();
  const abandon = () => channel?.abandon(signal?.reason);
  signal?.addEventListener("abort", abandon, { once: true });

  return {
    name: "onnxruntime",
    load: async (graph, { keepsMemory = true } = {}) => {
      signal?.throwIfAborted();
      if (closed) throw failure(graph, new Error("The engine is closed"));
      channel ??= openWorkerChannel(workerFile());
      lastSession += 1;
      // Its own, for another load may begin while this one waits.
      const loaded = { channel, session: lastSession, graph, signal, buffers };
      const enabled = enableCpuMemArena && keepsMemory;
      await loadGraph(loaded, { ...settings, enableCpuMemArena: enabled });
      return ortSession(loaded);
    },
    close: async () => {
      closed = true;
      await channel?.close();
      signal?.removeEventListener("abort", abandon);
    },
  };
}

/** A graph that the worker holds. */
interface LoadedGraph {
  readonly channel: WorkerChannel;
  readonly session: number;
  readonly graph: Graph;
  readonly signal: AbortSignal | undefined;
  readonly buffers: BufferPool;
}

async function loadGraph(
  { channel, session, graph, signal }: LoadedGraph,
  settings: SessionSettings,
): Promise<void> {
  try {
    // Whoever loads a graph has just built it: the event loop gets a turn in between.
    await nextTurn();
    checkGraph(graph);
    await channel.ask("load", { session, graph, settings });
  } catch (cause) {
    signal?.throwIfAborted();
    throw failure(graph, cause);
  }
}

function ortSession({ channel, session, graph, signal, buffers }: LoadedGraph): Session {
  let closing: Promise<void> | undefined;
  return {
    graph,
    run: async (feeds, outputs) => {
      signal?.throwIfAborted();
      if (closing !== undefined) throw failure(graph, new Error("The session is closed"));
      checkFeeds(graph, feeds);
      const names = chooseOutputs(graph, outputs).map((value) => value.name);
      if (names.length === 0) return new Map();
      const copies = copyFeeds(feeds, buffers);
      const request = { session, feeds: copies, outputs: names };
      try {
        const { outputs, spent } = await channel.ask("run", request, buffersOf(copies));
        for (const buffer of spent) buffers.give(buffer);
        return new Map(outputs);
      } catch (cause) {
        signal?.throwIfAborted();
        throw failure(graph, cause);
      }
    },
    close: () => {
      // It fails only when the worker is gone, and the session with it.
      closing ??= channel.ask("release", { session }).catch(() => undefined);
      return closing;
    },
  };
}

/**
 * Copies of the feeds to hand over. The caller keeps its own, and a clone by `postMessage` would take the
 * whole buffer behind a view (a parameter inside a large message) along.
 */
function copyFeeds(feeds: Feeds, buffers: BufferPool): Map<string, WireFeed> {
  const copies = new Map<string, WireFeed>();
  for (const [name, feed] of feeds) {
    // `checkFeeds` has let no other type through.
    if (feed.dtype === "float64") continue;
    const copy = "data" in feed ? { ...feed, data: buffers.copy(feed.data) } : feed;
    // The copy has the type of what it is a copy of.
    copies.set(name, copy as WireFeed);
  }
  return copies;
}

/** Beside this file, with its extension: `.js` once compiled. */
function workerFile(): URL {
  return new URL(`./worker${extname(import.meta.url)}`, import.meta.url);
}

function failure(graph: Graph, cause: unknown): Error {
  const text = cause instanceof Error ? cause.message : String(cause);
  return runtimeErrors.error("SESSION_FAILED", `Graph ${graph.name}: ${text}`, { cause });
}
