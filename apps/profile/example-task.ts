// The task that `trifold profile` plans for when it is given none: the embedded model at the defaults.
import { type Task, taskSchema } from "../../protocols/index.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { embeddedModelFolder } from "../package-root.ts";

/** A two-class task over the embedded model, with labels that may leave and a public set, so that nothing is forbidden. */
export async function exampleTask(cacheFolder: string): Promise<Task> {
  const { model, tokenizer } = await openModelAndTokenizer(embeddedModelFolder(), cacheFolder);
  const settings = taskSchema.parse({
    name: "example",
    head: { kind: "classification", labels: ["no", "yes"] },
    labelsMayLeave: true,
  });
  return {
    ...settings,
    manifest: {
      modelSha256: model.sha256,
      tokenizerSha256: tokenizer.sha256,
      config: model.config,
      // Texts of 60 words take about 200 bytes each when deflated together.
      publicSet: { sha256: "0".repeat(64), size: 200, bytes: 200 * 200 },
    },
  };
}
