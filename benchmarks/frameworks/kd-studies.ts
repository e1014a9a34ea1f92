// What adaptive top-k of logits saves and costs.
import type { Configuration } from "../../apps/compare/comparison.ts";
import { type Ground, languagePlan, questionPlan } from "./plans.ts";
import {
  accuracyRow,
  figuresOf,
  type MissingStudy,
  missingSaving,
  type Study,
  savingRows,
} from "./study.ts";

const adaptive = { "kd.topK": "adaptive", "kd.encoding": "int8" };

/** kd of a language model: all logits in float32 against the adaptive largest ones in int8. */
export function languageLogits(ground: Ground): Study {
  const all: Configuration = {
    framework: "kd",
    options: { "kd.topK": 2048, "kd.encoding": "float32" },
  };
  const some: Configuration = { framework: "kd", options: adaptive };
  return {
    name: "kd-language",
    plan: languagePlan(ground, [all, some]),
    rows: (result) =>
      savingRows({
        figure: "kd, lm head of 2,048 tokens, adaptive top-k + int8",
        direction: "both",
        reference: figuresOf(result, all),
        narrowed: figuresOf(result, some),
        mostBytes: 15,
        mostLoss: 2,
      }),
  };
}

/** kd told apart by 77 intents; its texts come with `--data`. */
export function questionLogits(ground: Ground): Study | MissingStudy {
  const name = "kd-questions";
  const figure = "kd, Banking77, adaptive top-k + int8";
  const { questions } = ground;
  const bounds = { mostBytes: 15, mostLoss: 0.5 };
  if (questions === undefined) {
    const reason = "needs --data DIR with banking77/train.csv and test.csv";
    return { name, missing: missingSaving({ figure, ...bounds }, reason) };
  }
  const all: Configuration = {
    framework: "kd",
    options: { "kd.topK": 77, "kd.encoding": "float32" },
  };
  const some: Configuration = { framework: "kd", options: adaptive };
  return {
    name,
    plan: questionPlan(ground, questions, [all, some]),
    rows: (result) => {
      const [reference, narrowed] = [figuresOf(result, all), figuresOf(result, some)];
      return [
        ...savingRows({
          figure,
          direction: "both",
          reference,
          narrowed,
          ...bounds,
        }),
        accuracyRow("kd, Banking77, all logits in float32", reference.perSeed),
      ];
    },
  };
}
