// A training step that computes the frozen blocks below the first adapter once a text: what leaves them depends on the text
// alone, so later epochs look it up. The loop sees an ordinary step, and the same bits.
import { createHash } from "node:crypto";
import { runtimeErrors } from "../errors.ts";
import { graphFlops } from "../graph/flops.ts";
import { parameterShapes } from "../models/lora.ts";
import { frontForwardGraph, type ModelSpec, type Objective } from "../models/partition.ts";
import type { Engine, Session } from "../session/engine.ts";
import { type Float32Tensor, float32, type Parameters, type TensorBundle } from "../tensor.ts";
import { feedsOf, floatOutput } from "./outputs.ts";
import { memoryRowStore, openFileRowStore, type RowStore } from "./row-store.ts";
import { loadStep, type TrainingStep } from "./steps.ts";

/** Where the prefix ends, and how much of what leaves it is kept. */
export interface PrefixCacheOptions {
  /** First block with an adapter, at least 1: blocks [0, from) are the prefix. */
  readonly from: number;
  /** Most bytes of activations in memory: 4 * sequence * hidden for each different text. */
  readonly memoryBytes: number;
  /** Folder for a file of the rows that memory has no room for; none are kept beyond memory when left out. */
  readonly folder?: string;
  /** Most bytes of that file; default 4 GiB. */
  readonly folderBytes?: number;
  readonly objective?: Objective;
}

/** What the cache did so far. */
export interface PrefixCacheReport {
  /** Rows found. */
  readonly hits: number;
  /** Rows that were not: new texts, texts without room, damaged ones. */
  readonly misses: number;
  /** Batches whose rows were all found. */
  readonly cachedBatches: number;
  readonly memoryBytes: number;
  readonly fileBytes: number;
  /** Mean time of the prefix of a batch whose rows were all found; absent before there was one. */
  readonly cachedMs?: number;
  /** Mean time of the prefix of a batch that was computed, looking and keeping included; absent before there was one. */
  readonly computedMs?: number;
}

/** A step with a cached prefix. `flops` is the mean of its runs so far. */
export interface PrefixCachedStep extends TrainingStep {
  report(): PrefixCacheReport;
}

/**
 * Loads the step of the blocks from `from` on behind a cache of what enters them. Parameters are those of
 * `parameterShapes` for these blocks; a run throws `ADAPTER_INVALID` for one below `from`. A batch with a row that is
 * not kept is computed as a whole. Throws `ADAPTER_INVALID` unless 1 <= from < layers, `CACHE_FOLDER_UNUSABLE`.
 */
export async function loadPrefixCachedStep(
  engine: Engine,
  spec: ModelSpec,
  options: PrefixCacheOptions,
): Promise<PrefixCachedStep> {
  const { from, objective } = options;
  checkPlace(spec, from);
  // The prefix has no adapters, whatever the settings would give its blocks.
  const frozen = { ...spec, lora: { ...spec.lora, targets: [] } };
  const front = frontForwardGraph(frozen, from, "evaluation");
  const frontSession = await engine.load(front.graph);
  const tail = await loadStep(engine, spec, {
    from,
    wantsCutGradient: false,
    ...(objective ? { objective } : {}),
  });
  const prefix: Prefix = {
    session: frontSession,
    output: front.activations as string,
    shape: [spec.batch * spec.sequence, spec.model.config.hiddenSize],
    rows: spec.batch,
    stores: await openStores(options),
    counts: { hits: 0, misses: 0, cached: noTime(), computed: noTime() },
  };
  const { config } = spec.model;
  const blocks = { from, to: config.layers };
  const names = new Set(parameterShapes(config, spec.lora, spec.head, blocks).keys());
  const frontFlops = graphFlops(front.graph);
  return {
    get flops() {
      const { cached, computed } = prefix.counts;
      const runs = cached.runs + computed.runs;
      return tail.flops + frontFlops * (runs === 0 ? 1 : computed.runs / runs);
    },
    withMasks: (feeds, key) => tail.withMasks(feeds, key),
    run: async (parameters, feeds) => {
      checkParameters(parameters, names, from);
      const activations = await activationsOf(prefix, feeds);
      return await tail.run(parameters, new Map([...feeds, ["activations", activations]]));
    },
    report: () => reportOf(prefix),
    close: async () => {
      for (const store of prefix.stores) await store.close();
      await frontSession.close();
      await tail.close();
    },
  };
}

/** The frozen blocks, loaded, and what is kept of them. */
interface Prefix {
  readonly session: Session;
  readonly output: string;
  /** [tokens, hidden]. */
  readonly shape: readonly number[];
  readonly rows: number;
  /** In the order in which they are filled. */
  readonly stores: readonly RowStore[];
  readonly counts: Counts;
}

interface Counts {
  hits: number;
  misses: number;
  readonly cached: Time;
  readonly computed: Time;
}

interface Time {
  runs: number;
  totalMs: number;
}

function noTime(): Time {
  return { runs: 0, totalMs: 0 };
}

async function openStores(options: PrefixCacheOptions): Promise<readonly RowStore[]> {
  const { memoryBytes, folder, folderBytes = 4 * 2 ** 30 } = options;
  const memory = memoryRowStore(memoryBytes);
  return folder === undefined ? [memory] : [memory, await openFileRowStore(folder, folderBytes)];
}

/** What leaves the prefix, [tokens, hidden]: looked up, or computed for the whole batch when a row is missing. */
async function activationsOf(prefix: Prefix, feeds: TensorBundle): Promise<Float32Tensor> {
  const { shape, rows, counts } = prefix;
  const startMs = performance.now();
  const keys = rowKeys(feeds, rows);
  const found = float32(shape);
  const missing: number[] = [];
  for (const [row, key] of keys.entries()) {
    if (!(await readRow(prefix.stores, key, rowOf(found, row, rows)))) missing.push(row);
  }
  counts.hits += rows - missing.length;
  counts.misses += missing.length;
  const activations = missing.length === 0 ? found : await compute(prefix, feeds);
  for (const row of missing) {
    await keepRow(prefix.stores, keys[row] as string, rowOf(activations, row, rows));
  }
  const time = missing.length === 0 ? counts.cached : counts.computed;
  time.runs += 1;
  time.totalMs += performance.now() - startMs;
  return activations;
}

async function compute({ session, output }: Prefix, feeds: TensorBundle): Promise<Float32Tensor> {
  return floatOutput(await session.run(feedsOf(session, new Map(), feeds)), output);
}

async function readRow(
  stores: readonly RowStore[],
  key: string,
  row: Float32Array,
): Promise<boolean> {
  for (const store of stores) if (await store.read(key, row)) return true;
  return false;
}

/** The first store with room keeps it. */
async function keepRow(stores: readonly RowStore[], key: string, row: Float32Array): Promise<void> {
  for (const store of stores) if (await store.write(key, row)) return;
}

/** A view of one row of the batch, [seq, hidden]. */
function rowOf({ data }: Float32Tensor, row: number, rows: number): Float32Array {
  const length = data.length / rows;
  return data.subarray(row * length, (row + 1) * length);
}

/** Rows are known by what the prefix sees of them: token ids and attention mask, [batch, seq]. */
function rowKeys(feeds: TensorBundle, rows: number): readonly string[] {
  return Array.from({ length: rows }, (_, row) => {
    const hash = createHash("sha256");
    for (const name of ["input_ids", "attention_mask"]) {
      const data = feeds.get(name)?.data ?? new BigInt64Array(0);
      const length = data.length / rows;
      hash.update(data.subarray(row * length, (row + 1) * length));
    }
    return hash.digest("base64url");
  });
}

function reportOf({ stores, counts }: Prefix): PrefixCacheReport {
  const { hits, misses, cached, computed } = counts;
  const [memoryBytes = 0, fileBytes = 0] = stores.map(({ bytes }) => bytes);
  return {
    hits,
    misses,
    cachedBatches: cached.runs,
    memoryBytes,
    fileBytes,
    ...(cached.runs > 0 ? { cachedMs: cached.totalMs / cached.runs } : {}),
    ...(computed.runs > 0 ? { computedMs: computed.totalMs / computed.runs } : {}),
  };
}

function checkPlace({ model }: ModelSpec, from: number): void {
  const { layers } = model.config;
  if (Number.isInteger(from) && from >= 1 && from < layers) return;
  throw runtimeErrors.error(
    "ADAPTER_INVALID",
    `a prefix of ${from} blocks cannot be cached, expected 1 to ${layers - 1} of ${layers}`,
    { hint: "Give adapters to the last blocks only, and name the first of them." },
  );
}

function checkParameters(parameters: Parameters, known: ReadonlySet<string>, from: number): void {
  for (const name of parameters.keys()) {
    if (known.has(name)) continue;
    throw runtimeErrors.error(
      "ADAPTER_INVALID",
      `${name} is no parameter of block ${from} or a later one, and what lies before is frozen`,
      { hint: "Train without the cache, or without adapters in the first blocks." },
    );
  }
}
