// What is measured: a model, a head, a batch. The tokens are random; time and memory do not depend on them.
import {
  type BaseModel,
  defaultTargets,
  type ExecutionMode,
  float32,
  type HeadSettings,
  initialParameters,
  int64,
  type LoraSettings,
  type Workload as MemoryLoad,
  type ModelSpec,
  openBaseModel,
  type Parameters,
  randomStream,
  specInMode,
  type Tensor,
  type TensorBundle,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";

/** Everything a measuring process must know; JSON. */
export interface Workload {
  /** Model folder. */
  readonly model: string;
  readonly cacheFolder: string;
  readonly head: HeadSettings;
  readonly batch: number;
  readonly sequence: number;
  readonly threads: number;
  /** Blocks of a split client; the whole step when left out. */
  readonly cut?: number;
  /** How the model is executed; whole-float32 when left out. */
  readonly mode?: ExecutionMode;
  /** Rearranged copies of the weights: faster and hungrier. Default false. */
  readonly prepacking?: boolean;
}

/** A workload that can be run. */
export interface PreparedWorkload {
  readonly spec: ModelSpec;
  readonly parameters: Parameters;
  /** What a batch feeds to any graph of the model. */
  readonly feeds: TensorBundle;
}

/** Opens the model and draws a batch. Throws `MODEL_*`, and `OPTION_INVALID` where batch or cut do not fit the model. */
export async function prepareWorkload(workload: Workload): Promise<PreparedWorkload> {
  const { cacheFolder, head, batch, sequence } = workload;
  const model = await openBaseModel(workload.model, { cacheFolder });
  checkFit(workload, model);
  const plain: ModelSpec = { model, lora: adapterOf(model), head, batch, sequence };
  const spec = await specInMode(plain, workload.mode ?? "whole-float32");
  const parameters = initialParameters(model.config, spec.lora, head, 1);
  return { spec, parameters, feeds: randomFeeds(spec) };
}

/** What the workload loads to train. */
export function loadsOf({ cut }: Pick<Workload, "cut">): readonly MemoryLoad[] {
  return [cut === undefined ? { kind: "step" } : { kind: "front", cutLayer: cut }];
}

function checkFit({ cut, sequence }: Workload, { config }: BaseModel): void {
  if (cut !== undefined && cut >= config.layers) {
    const range = `expected 1 to ${config.layers - 1}`;
    throw appErrors.error(
      "OPTION_INVALID",
      `--cut is ${cut}, ${range}: the model has ${config.layers} blocks`,
      { hint: "A split client computes the first blocks and leaves at least one." },
    );
  }
  if (sequence > config.positions) {
    throw appErrors.error(
      "OPTION_INVALID",
      `--seq is ${sequence}, expected at most ${config.positions}, the positions of the model`,
      { hint: "Lower --seq." },
    );
  }
}

function adapterOf({ config }: BaseModel): LoraSettings {
  return { rank: 8, alpha: 16, targets: defaultTargets(config) };
}

function randomFeeds({ model, head, batch, sequence }: ModelSpec): TensorBundle {
  const random = randomStream("bench tokens");
  const tokens = batch * sequence;
  const rows = head.kind === "lm" ? tokens : batch;
  const ids = Array.from({ length: tokens }, () => random.below(model.config.vocabSize));
  const labels =
    head.kind === "lm" ? ids : Array.from({ length: rows }, () => random.below(head.classes));
  const pooling = float32([batch, sequence]);
  for (let row = 0; row < batch; row++) pooling.data[(row + 1) * sequence - 1] = 1;
  return new Map<string, Tensor>([
    ["input_ids", int64([batch, sequence], ids)],
    ["attention_mask", int64([batch, sequence], new BigInt64Array(tokens).fill(1n))],
    ["pooling", pooling],
    ["labels", int64([rows], labels)],
    ["weights", float32([rows], new Float32Array(rows).fill(1 / rows))],
  ]);
}
