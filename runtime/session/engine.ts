// The seam between graphs and what computes them: stock ONNX Runtime (`ort.ts`) or the plain
// TypeScript interpreter (`graph/reference.ts`). Both pass one contract suite.
import type { Graph } from "../graph/ir.ts";
import type { FileTensor, Tensor } from "../tensor.ts";

/** What is fed: tensors, or places in files that a session reads into memory it uses again for the next run. */
export type Feeds = ReadonlyMap<string, Tensor | FileTensor>;

/** How a graph is loaded. */
export interface LoadOptions {
  /**
   * Whether a session keeps what its fullest run took for the next one. Default true; false for sessions that run in
   * turns, each of which would keep as much.
   */
  readonly keepsMemory?: boolean;
}

/** Loads graphs and owns what they need: a worker thread, temporary files. */
export interface Engine {
  readonly name: string;
  /** Prepares a graph; throws `SESSION_FAILED` when it cannot. External weights files must not change while loaded. */
  load(graph: Graph, options?: LoadOptions): Promise<Session>;
  /** Frees every session and stops the worker; safe to call twice. */
  close(): Promise<void>;
}

/** A graph ready to run. Runs are serial; a second call waits for the first. */
export interface Session {
  readonly graph: Graph;
  /**
   * Computes the named outputs (all when left out) from one tensor for every graph input.
   * Throws `SESSION_FEED_INVALID` on a missing, unknown or misshapen feed, `SESSION_FAILED` when a file is too short.
   * Outputs belong to the caller.
   */
  run(feeds: Feeds, outputs?: readonly string[]): Promise<Map<string, Tensor>>;
  /** Frees the graph; safe to call twice. */
  close(): Promise<void>;
}
