// The rate of float32 matrix products through the engine that training uses: what a board computes, not
// what its data sheet says.
import {
  type Engine,
  float32,
  graphBuilder,
  graphFlops,
  ortEngine,
  type ProviderName,
} from "../../runtime/index.ts";

/** How to measure. */
export interface GemmProbeOptions {
  /** Threads of one operator; default: all processors. */
  readonly threads?: number;
  /** Execution providers, best first; the CPU when left out. */
  readonly providers?: readonly ProviderName[];
  /** Rows, columns and depth of the product. */
  readonly size?: number;
  readonly repeats?: number;
  readonly signal?: AbortSignal;
}

/** FLOP/s of square float32 products: the median of several runs after one that warms up. */
export async function measureGemm(options: GemmProbeOptions = {}): Promise<number> {
  const { threads, providers, size = 512, repeats = 7, signal } = options;
  const engine = ortEngine({
    ...(threads && { threads }),
    ...(providers && { providers }),
    ...(signal && { signal }),
  });
  try {
    return await timeProducts(engine, { size, repeats, signal });
  } finally {
    await engine.close();
  }
}

async function timeProducts(
  engine: Engine,
  {
    size,
    repeats,
    signal,
  }: { readonly size: number; readonly repeats: number; readonly signal: AbortSignal | undefined },
): Promise<number> {
  const b = graphBuilder();
  const x = b.input("x", "float32", [size, size]);
  const y = b.input("y", "float32", [size, size]);
  // Several products in one run, so that handing the tensors over weighs little.
  const gemm = { alpha: 1 / size, transA: false, transB: false };
  const last = Array.from({ length: 4 }).reduce(
    (value: typeof x) => b.op("Gemm", [value, y], gemm),
    x,
  );
  b.output(last);
  const graph = b.build("gemm-probe");
  const session = await engine.load(graph);
  const ones = float32([size, size], new Float32Array(size * size).fill(1));
  const feeds = new Map([
    ["x", ones],
    ["y", ones],
  ]);
  const times: number[] = [];
  for (let i = 0; i <= repeats; i++) {
    signal?.throwIfAborted();
    const started = performance.now();
    await session.run(feeds);
    if (i > 0) times.push((performance.now() - started) / 1000);
  }
  const median = times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)] as number;
  return graphFlops(graph) / median;
}
