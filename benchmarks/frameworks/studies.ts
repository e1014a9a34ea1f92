// The promised rows of the suite, each with the comparison it is read from.
import type { ComparisonResult, Configuration } from "../../apps/compare/comparison.ts";
import { coordinationRow } from "./coordination.ts";
import { languageLogits, questionLogits } from "./kd-studies.ts";
import { type Ground, plainly, speechPlan } from "./plans.ts";
import { cutModels } from "./split-studies.ts";
import {
  accuracyRow,
  figuresOf,
  lossRow,
  type MissingStudy,
  packetShares,
  rawShareRow,
  row,
  type Study,
} from "./study.ts";

/** Every study of the suite in its order. */
export function studiesOf(ground: Ground): readonly (Study | MissingStudy)[] {
  return [
    wholeModels(ground),
    languageLogits(ground),
    questionLogits(ground),
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
    // Adapters of 260 kB: headers of 1 kB a message do not hide what the encoding saves.
    plan: speechPlan(ground, [exact, narrow], {
      adapter: { rank: 8, alpha: 16, targets: ["all-linear"] },
    }),
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
        rawShareRow(`${figure}: bytes`, narrowed, 14),
        row(
          `${figure}: bytes of the float32 run's packets`,
          "%",
          packetShares(reference, narrowed),
        ),
        lossRow(`${figure}: lost`, reference, narrowed, 0.5),
      ];
    },
  };
}

/** A mixed federation against the best that the same devices reach in one framework. */
function mixes(ground: Ground, count: 3 | 6): Study {
  const each = count / 3;
  const figure = `mixed ${each}+${each}+${each}: below the best single framework`;
  // Devices together make 48 steps in each round.
  const training = { rounds: 3, localSteps: 48 / count };
  return {
    name: `mixed-${count}`,
    plan: speechPlan(ground, plainly("full", "split", "kd", "mixed"), { count, training }),
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
