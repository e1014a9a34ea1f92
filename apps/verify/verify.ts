// `trifold verify`: what this machine's engine makes of a reference file's batch, and how far it is from
// what the file expects.
import {
  type BaseModel,
  type Engine,
  type Float32Tensor,
  float32,
  int64,
  openBaseModel,
  ortEngine,
  type ProviderName,
  stepGraph,
  type Tensor,
  type TensorBundle,
  writeSafetensors,
} from "../../runtime/index.ts";
import { type Comparison, compareTensors } from "./comparison.ts";
import { type Reference, readReference } from "./reference.ts";

/** What to verify, and on what. */
export interface VerifyOptions {
  /** Hugging Face or imported model folder; a tokenizer is not needed. */
  readonly model: string;
  readonly reference: string;
  /** Where the results go, if anywhere. */
  readonly out?: string;
  readonly cacheFolder: string;
  readonly threads?: number;
  /** Execution providers, best first; the CPU when left out. */
  readonly providers?: readonly ProviderName[];
}

/** What came out. */
export interface VerifyReport {
  readonly loss: number;
  /** One for each expectation of the file; none when it has none. */
  readonly comparisons: readonly Comparison[];
  /** Whether every comparison is within its bound. */
  readonly ok: boolean;
  /** What the operator should know about the numbers. */
  readonly notes: readonly string[];
}

/** Computes loss, logits and gradients of a reference file's batch, writes them to `out`, compares them. */
export async function verify(options: VerifyOptions): Promise<VerifyReport> {
  const { cacheFolder, out, threads, providers } = options;
  const model = await openBaseModel(options.model, { cacheFolder });
  const reference = await readReference(options.reference, model.config);
  const engine = ortEngine({ ...(threads && { threads }), ...(providers && { providers }) });
  try {
    const results = await compute(engine, model, reference);
    if (out !== undefined) await writeResults(out, results);
    const loss = results.get("loss")?.data[0] as number;
    const comparisons = compareAll(reference, results);
    const ok = comparisons.every((comparison) => comparison.ok);
    return { loss, comparisons, ok, notes: notesOn(reference) };
  } finally {
    await engine.close();
  }
}

/** Results by the names of the file's expectations. */
async function compute(
  engine: Engine,
  model: BaseModel,
  reference: Reference,
): Promise<ReadonlyMap<string, Float32Tensor>> {
  const [batch, sequence] = reference.inputIds.shape as readonly [number, number];
  const { lora, head, fileNames } = reference;
  const step = stepGraph({ model, lora, head, batch, sequence }, { wantsLogits: true });
  const { loss = "", logits = "" } = step;
  const session = await engine.load(step.graph);
  const available: TensorBundle = new Map([...reference.parameters, ...batchFeeds(reference)]);
  const feeds = new Map(
    step.graph.inputs.map(({ name }) => [name, available.get(name) as Tensor] as const),
  );
  const outputs = await session.run(feeds, [loss, logits, ...step.gradients.values()]);
  const results = new Map<string, Float32Tensor>([
    ["loss", float32([1], valuesOf(outputs, loss))],
    ["logits", shapeLogits(reference, outputs, logits)],
  ]);
  for (const [name, output] of step.gradients) {
    const shape = reference.parameters.get(name)?.shape ?? [];
    const gradient = float32(shape, valuesOf(outputs, output));
    results.set(`grad.${fileNames.get(name) ?? name}`, gradient);
  }
  return results;
}

/** Language-model logits leave the graph as [tokens, vocab] and the file as [batch, seq, vocab]. */
function shapeLogits({ head, inputIds }: Reference, outputs: TensorBundle, name: string) {
  const shape = outputs.get(name)?.shape ?? [];
  const wanted = head.kind === "lm" ? [...inputIds.shape, shape[1] as number] : shape;
  return float32(wanted, valuesOf(outputs, name));
}

function valuesOf(outputs: TensorBundle, name: string): Float32Array {
  return outputs.get(name)?.data as Float32Array;
}

function batchFeeds(reference: Reference): TensorBundle {
  const { inputIds, attentionMask, head } = reference;
  const targets = head.kind === "lm" ? shiftedLabels(reference) : reference.labels.data;
  const known = targets.filter((label) => label >= 0n).length;
  const weights = Float32Array.from(targets, (label) => (label >= 0n ? 1 / known : 0));
  return new Map<string, Tensor>([
    ["input_ids", inputIds],
    ["attention_mask", attentionMask],
    ["pooling", lastTokenPooling(attentionMask.data, inputIds.shape)],
    [
      "labels",
      int64(
        [targets.length],
        targets.map((label) => (label >= 0n ? label : 0n)),
      ),
    ],
    ["weights", float32([targets.length], weights)],
  ]);
}

/** Each position's label is the next token's; the last position of a row predicts nothing. */
function shiftedLabels({ labels }: Reference): BigInt64Array {
  const sequence = labels.shape[1] as number;
  return labels.data.map((_, i) =>
    i % sequence === sequence - 1 ? -100n : (labels.data[i + 1] as bigint),
  );
}

/** 1 at the last position of each row whose mask is 1, wherever the padding is. */
function lastTokenPooling(mask: BigInt64Array, shape: readonly number[]): Float32Tensor {
  const pooling = float32(shape);
  const sequence = shape[1] as number;
  for (let start = 0; start < mask.length; start += sequence) {
    const last = mask.subarray(start, start + sequence).lastIndexOf(1n);
    if (last >= 0) pooling.data[start + last] = 1;
  }
  return pooling;
}

function notesOn(reference: Reference): readonly string[] {
  if (reference.head.kind !== "lm") return [];
  const isBlind = blind(reference);
  const labels = shiftedLabels(reference);
  const positions = isBlind.filter(Boolean).length;
  const predicted = isBlind.filter((isOne, i) => isOne && (labels[i] as bigint) >= 0n).length;
  const notes: string[] = [];
  if (positions > 0) {
    notes.push(
      `${positions} positions see no token (padding on the left); their logits, which no definition fixes, are not compared`,
    );
  }
  if (predicted > 0) {
    notes.push(
      `${predicted} labels are predicted from such a position, so loss and gradients may differ; set them to -100`,
    );
  }
  return notes;
}

/**
 * Whether each position sees no token at all: padding on the left of the first real token. What attention
 * gives there differs between versions and back ends of Hugging Face: every key alike, or some, or none.
 */
function blind({ attentionMask }: Reference): readonly boolean[] {
  const sequence = attentionMask.shape[1] as number;
  let seen = false;
  return Array.from(attentionMask.data, (visible, i) => {
    seen = (i % sequence !== 0 && seen) || visible === 1n;
    return !seen;
  });
}

function compareAll(
  reference: Reference,
  results: ReadonlyMap<string, Float32Tensor>,
): readonly Comparison[] {
  const isBlind = blind(reference);
  const counts = (name: string, actual: Float32Tensor) => {
    if (reference.head.kind !== "lm" || name !== "logits") return undefined;
    const vocabulary = actual.shape[2] as number;
    return (element: number) => !isBlind[Math.floor(element / vocabulary)];
  };
  return [...reference.expected].map(([name, expected]) => {
    const actual = results.get(name) as Float32Tensor;
    return compareTensors(name, actual, expected, counts(name, actual));
  });
}

async function writeResults(
  file: string,
  results: ReadonlyMap<string, Float32Tensor>,
): Promise<void> {
  const named = [...results].map(([name, tensor]) => [`actual.${name}`, tensor] as const);
  await writeSafetensors(file, new Map(named));
}
