// A device's own model: protocols whose messages do not depend on the architecture (`kd`) may run it in place of the
// task's. To such a protocol the task then reads as if it were of that model.
import { z } from "zod";
import { targetedModules } from "../runtime/index.ts";
import { modelConfigSchema } from "./model-config.ts";
import { headOf } from "./plan.ts";
import { adapterSchema, type Task } from "./task.ts";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** What the other end must know of a device's own model to estimate it. */
export const ownModelSchema = z.strictObject({
  modelSha256: sha256,
  tokenizerSha256: sha256,
  config: modelConfigSchema,
  /** How the device adapts it. */
  adapter: adapterSchema,
});

/** A device's own model. */
export type OwnModel = z.output<typeof ownModelSchema>;

/** The task as it is to a device that runs its own model. */
export function withOwnModel(task: Task, { adapter, ...model }: OwnModel): Task {
  return { ...task, adapter, manifest: { ...task.manifest, ...model } as Task["manifest"] };
}

/** Why a device's own model cannot serve the task, or undefined when it can. */
export function ownModelProblem(task: Task, own: OwnModel): string | undefined {
  const { sequenceLength } = task.training;
  if (own.config.positions < sequenceLength)
    return `the device's own model has ${own.config.positions} positions, the task needs ${sequenceLength}`;
  if (headOf(task).kind === "lm" && own.tokenizerSha256 !== task.manifest.tokenizerSha256)
    return "the device's own model has another tokenizer, and logits of a language model are over its tokens";
  const { vocabSize } = task.manifest.config;
  if (headOf(task).kind === "lm" && own.config.vocabSize !== vocabSize)
    return `the device's own model has logits of ${own.config.vocabSize} tokens, the task's of ${vocabSize}`;
  try {
    targetedModules(withOwnModel(task, own).manifest.config, own.adapter);
    return undefined;
  } catch (error) {
    return `the device's own model: ${(error as Error).message}`;
  }
}
