// What `trifold train` is asked for and what it answers.
import type {
  ExecutionMode,
  LoraSettings,
  OptimizerKind,
  PrefixCacheReport,
  ProviderName,
  ScheduleKind,
} from "../../runtime/index.ts";
import type { ExecutionChoice } from "../execution.ts";
import type { PrefixCacheChoice } from "./graphs.ts";

/** What to train, on what and how. */
export interface TrainingOptions {
  readonly model: string;
  readonly data: string;
  readonly textColumn: string;
  /** Not read for a language model. */
  readonly labelColumn: string;
  readonly head: "classification" | "lm";
  /** Targets are PEFT's for the model when left out. */
  readonly lora: Omit<LoraSettings, "targets"> & Partial<Pick<LoraSettings, "targets">>;
  readonly optimizer: OptimizerKind;
  readonly weightDecay: number;
  /** Optimizer steps; `epochs` counts when left out. */
  readonly steps?: number;
  readonly epochs: number;
  readonly batchSize: number;
  /** Batches of an optimizer step. */
  readonly accumulate: number;
  readonly sequenceLength?: number;
  readonly learningRate: number;
  /** Steps in which the rate rises. */
  readonly warmUp: number;
  readonly schedule: ScheduleKind;
  /** Share of the target that is spread over all classes or tokens, 0 to below 1. */
  readonly labelSmoothing: number;
  readonly maxGradientNorm: number;
  readonly seed: number;
  /** Share of the rows that is only scored on, 0 to below 1. */
  readonly holdOutFraction: number;
  /** Folder of the adapter; a checkpoint lies in it while training is not finished. */
  readonly out: string;
  /** Steps from one checkpoint to the next. */
  readonly checkpointEvery: number;
  /** Goes on from the checkpoint in `out`. */
  readonly resume: boolean;
  readonly threads?: number;
  /** Execution providers, best first; the CPU when left out. */
  readonly providers?: readonly ProviderName[];
  /** How the model is executed; whole-float32 when left out. */
  readonly execution?: ExecutionChoice;
  /** Keeps what leaves the blocks below the first adapter; nothing is kept when left out. */
  readonly prefixCache?: PrefixCacheChoice;
  readonly cacheFolder: string;
  /** Ends training at once; what the last complete step made is saved. */
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
  /** Told the steps when they are known; what it gives is told of each step. */
  readonly onStart: (plan: StartReport) => (step: StepReport) => void;
}

/** Steps to make and steps made before. */
export interface StartReport {
  readonly steps: number;
  readonly firstStep: number;
}

/** How far training is. */
export interface StepReport {
  /** Steps made, those before a resumed run included. */
  readonly step: number;
  readonly loss: number;
  /** Tokens seen in this run, padding not counted. */
  readonly tokens: number;
}

/** What training made. */
export interface TrainingReport {
  readonly adapter: string;
  /** None for a language model. */
  readonly labels: readonly string[];
  readonly trainExamples: number;
  readonly holdOutExamples: number;
  readonly steps: number;
  /** Mean loss of all steps. */
  readonly loss: number;
  /** On the hold-out; absent without one and after Ctrl-C. */
  readonly accuracy?: number;
  readonly macroF1?: number;
  /** Share of the hold-out's largest class: what guessing would reach. */
  readonly majority?: number;
  /** Of a language model on the hold-out. */
  readonly perplexity?: number;
  /** Share of the computed tokens that is padding. */
  readonly padding: PaddingShares;
  /** How the model was executed. */
  readonly mode: ExecutionMode;
  /** What the prefix cache did, for each length of batches; absent without one. */
  readonly prefixCache?: readonly PrefixCacheReport[];
  /** Runs that were resumed included. */
  readonly seconds: number;
  readonly flops: number;
  /** Whether it ended before its last step. */
  readonly interrupted: boolean;
}

/** Padding with every text at full length, and with batches of like length; 0 to 1. */
export interface PaddingShares {
  readonly plain: number;
  readonly bucketed: number;
}
