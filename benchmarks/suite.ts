// What the parts of suite `engine` share: the workload, PyTorch, and the form of a row.
import { availableParallelism } from "node:os";
import type { ModelPlace } from "../apps/bench/random-weights.ts";
import { summarise } from "../apps/bench/statistics.ts";
import type { Workload } from "../apps/bench/workload.ts";
import type { HeadSettings } from "../runtime/index.ts";
import { findPyTorch, type PyTorch } from "./pytorch.ts";
import type { Row } from "./row.ts";

/** What every part of the suite measures with. */
export interface Suite {
  /** The workload of a head, 4 x 64 tokens. */
  workload(head: HeadSettings["kind"]): Workload;
  readonly pytorch: PyTorch;
  readonly log: (message: string) => void;
}

/** Names of the heads in figures. */
export const headTitles = { lm: "lm head", classification: "77-class head" } as const;

/** A row of what was measured: the median and its spread. */
export function measuredRow(figure: string, unit: string, values: readonly number[]): Row {
  const { median, spread } = summarise(values);
  return { figure, value: median, unit, spread, command };
}

/** A row of what could not be measured. */
export function missingRow(figure: string, unit: string, reason: string): Row {
  return { figure, value: undefined, unit, spread: 0, command, reason };
}

/** Finds PyTorch for a model that lies there. */
export async function openSuite(place: ModelPlace, log: Suite["log"]): Promise<Suite> {
  const threads = availableParallelism();
  log("looking for PyTorch and its fastest kernels ...");
  const pytorch = await findPyTorch();
  log(pytorch.kind === "missing" ? pytorch.reason : foundText(pytorch));
  const heads: Readonly<Record<HeadSettings["kind"], HeadSettings>> = {
    lm: { kind: "lm" },
    classification: { kind: "classification", classes: 77 },
  };
  return {
    workload: (head) => ({ ...place, head: heads[head], batch: 4, sequence: 64, threads }),
    pytorch,
    log,
  };
}

const command = "npm run bench -- engine";

function foundText(pytorch: Extract<PyTorch, { kind: "found" }>): string {
  const { version, coreType, flopsPerSecond } = pytorch;
  const kernels = coreType === "" ? "OpenBLAS's own choice of kernels" : `kernels ${coreType}`;
  return `PyTorch ${version}, ${kernels}: ${(flopsPerSecond / 1e9).toFixed(0)} GFLOP/s a thread`;
}
