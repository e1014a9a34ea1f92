// The promised rows of the suite, each with the comparison it is read from.
import type { ComparisonResult, Configuration } from "../../apps/compare/comparison.ts";
import type { Row } from "../row.ts";
import { coordinationRow } from "./coordination.ts";
import { type Ground, languagePlan, plainly, questionPlan, speechPlan } from "./plans.ts";
import { command, figuresOf, lossRow, row, type Study, savingRows } from "./study.ts";

/** Every study of the suite in its order, and the rows of those that lack their texts. */
export function studiesOf(ground: Ground): readonly (Study | Row)[] {
  return [
    wholeModels(ground),
    languageLogits(ground),
    ground.questions ? questionLogits(ground, ground.questions) : withoutQuestions,
    cutModels(ground),
    mixes(ground, 3),
    mixes(ground, 6),
  ];
}

/** full in float32 against centralised training and against int4 with error feedback. */
function wholeModels(ground: Ground): Study {
  const exact: Configuration = { framework: "full", options: { "full.encoding": "float32" } };
  const narrow: Configuration = { framework: "full", options: { "full.encoding": "int4" } };
  return {
    name: "full",
    plan: speechPlan(ground, [exact, narrow]),
    withBaselines: true,
    rows: (result) => {
      const [reference, narrowed] = [figuresOf(result, exact), figuresOf(result, narrow)];
      const central = result.baselines.find(({ name }) => name === "centralised")?.scores ?? [];
      const losses = reference.perSeed.map(
        ({ score }, i) => 100 * ((central[i] ?? Number.NaN) - score),
      );
      const figure = "full, int4 delta + error feedback, both directions";
      return [
        row("full, float32, IID: below centralised", "points", losses, {
          relation: "<=",
          limit: 1,
        }),
        ...savingRows({
          figure,
          direction: "both",
          reference,
          narrowed,
          mostBytes: 14,
          mostLoss: 0.5,
        }),
      ];
    },
  };
}

const withoutQuestions: Row = {
  figure: "kd, Banking77, adaptive top-k + int8: bytes",
  value: undefined,
  unit: "% of float32",
  mustReach: { relation: "<=", limit: 15 },
  spread: 0,
  command: `${command} --data DIR`,
  reason: "needs --data DIR with banking77/train.csv and test.csv",
};

const adaptive = { "kd.topK": "adaptive", "kd.encoding": "int8" };

/** kd of a language model: all logits in float32 against the adaptive largest ones in int8. */
function languageLogits(ground: Ground): Study {
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

function questionLogits(ground: Ground, questions: NonNullable<Ground["questions"]>): Study {
  const all: Configuration = {
    framework: "kd",
    options: { "kd.topK": 77, "kd.encoding": "float32" },
  };
  const some: Configuration = { framework: "kd", options: adaptive };
  return {
    name: "kd-questions",
    plan: questionPlan(ground, questions, [all, some]),
    rows: (result) => {
      const [reference, narrowed] = [figuresOf(result, all), figuresOf(result, some)];
      return [
        ...savingRows({
          figure: "kd, Banking77, adaptive top-k + int8",
          direction: "both",
          reference,
          narrowed,
          mostBytes: 15,
          mostLoss: 0.5,
        }),
        accuracyRow("kd, Banking77, all logits in float32", reference.perSeed),
      ];
    },
  };
}

/** split over ten epochs of each device's texts. */
function cutModels(ground: Ground): Study {
  const float32 = { "split.activations": "float32", "split.gradients": "float32" };
  const cut = { "split.cutLayer": 2 };
  const configuration = (options: Configuration["options"]): Configuration => {
    return { framework: "split", options: { ...cut, ...float32, ...options } };
  };
  const exact = configuration({});
  const down = configuration({ "split.gradients": "int8" });
  const up = configuration({ "split.activations": "int8", "split.reuse.threshold": "adaptive" });
  const both = configuration({
    "split.activations": "int8",
    "split.reuse.threshold": "adaptive",
    "split.gradients": "int4",
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
          figure: "split, both ways, gradients in int4 + error feedback",
          direction: "both",
          of: both,
          mostBytes: 15,
          mostLoss: 1,
        }),
      ];
    },
  };
}

/** A mixed federation against the best that the same devices reach in one framework. */
function mixes(ground: Ground, count: 3 | 6): Study {
  const each = count / 3;
  const figure = `mixed ${each}+${each}+${each}: below the best single framework`;
  return {
    name: `mixed-${count}`,
    plan: speechPlan(ground, plainly("full", "split", "kd", "mixed"), { count }),
    rows: (result) => {
      const mixed = figuresOf(result, { framework: "mixed", options: {} });
      const best = bestSingle(result);
      return [
        lossRow(`${figure} (${best.framework})`, best, mixed, 0.5),
        accuracyRow(`mixed ${each}+${each}+${each}`, mixed.perSeed),
        coordinationRow(`mixed ${each}+${each}+${each}: coordination`, mixed.perSeed),
      ];
    },
  };
}

function bestSingle({ configurations }: ComparisonResult) {
  const single = configurations.filter(({ framework }) => framework !== "mixed");
  return single.reduce((a, b) => ((b.accuracy?.mean ?? 0) > (a.accuracy?.mean ?? 0) ? b : a));
}

function accuracyRow(figure: string, runs: readonly { readonly score: number }[]): Row {
  return row(
    `${figure}: accuracy`,
    "%",
    runs.map(({ score }) => 100 * score),
  );
}
