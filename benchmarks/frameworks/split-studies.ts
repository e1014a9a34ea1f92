// What narrowing saves of the bytes at the cut, and what it costs.
import type { Configuration } from "../../apps/compare/comparison.ts";
import { type Ground, speechPlan } from "./plans.ts";
import { figuresOf, type Study, savingRows } from "./study.ts";

/** split over ten epochs of each device's texts. */
export function cutModels(ground: Ground): Study {
  const float32 = { "split.activations": "float32", "split.gradients": "float32" };
  const cut = { "split.cutLayer": 2 };
  const configuration = (options: Configuration["options"]): Configuration => {
    return { framework: "split", options: { ...cut, ...float32, ...options } };
  };
  const exact = configuration({});
  const down = configuration({ "split.gradients": "int8" });
  const up = configuration({ "split.activations": "int8", "split.reuse.threshold": 0.04 });
  const both = configuration({
    "split.activations": "int8",
    "split.reuse.threshold": 0.03,
    "split.gradients": "topk",
    "split.errorFeedback": true,
  });
  // 160 texts less the fifth held out: ten epochs are 80 steps of 16.
  const more = { rowsPerDevice: 160, training: { rounds: 5, localSteps: 16 } };
  return {
    name: "split",
    plan: speechPlan(ground, [exact, down, up, both], more),
    rows: (result) => {
      const reference = figuresOf(result, exact);
      const saving = (options: {
        figure: string;
        direction: "up" | "down" | "both";
        of: Configuration;
        mostBytes: number;
        mostLoss: number;
      }) => savingRows({ ...options, reference, narrowed: figuresOf(result, options.of) });
      return [
        ...saving({
          figure: "split, gradients down in int8",
          direction: "down",
          of: down,
          mostBytes: 27,
          mostLoss: 0.5,
        }),
        ...saving({
          figure: "split, activations up in int8 + temporal reuse, 10 epochs",
          direction: "up",
          of: up,
          mostBytes: 12,
          mostLoss: 0.5,
        }),
        ...saving({
          figure: "split, both ways, gradients in top-k + error feedback",
          direction: "both",
          of: both,
          mostBytes: 15,
          mostLoss: 1,
        }),
      ];
    },
  };
}
