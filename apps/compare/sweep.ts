// Options that are swept: which field of the task each one is, and which frameworks it can change.
import { parse } from "yaml";
import { appErrors } from "../errors.ts";
import { type Configuration, type Framework, frameworks, type OptionValue } from "./comparison.ts";

/** Values of options by name, in the order given. */
export type Sweep = Readonly<Record<string, readonly OptionValue[]>>;

/** Reads `name=value,value` as the command line gives it; throws `OPTION_INVALID`. */
export function parseSweep(text: string): Sweep {
  const at = text.indexOf("=");
  const name = text.slice(0, Math.max(0, at)).trim();
  const values = text
    .slice(at + 1)
    .split(",")
    .map((value) => value.trim());
  if (at < 1 || !/^[A-Za-z][A-Za-z0-9.]*$/.test(name) || values.includes("")) {
    throw invalid(`--sweep ${text}`, "is not name=value,value");
  }
  return { [name]: values.map((value) => scalarOf(text, value)) };
}

/** Names of frameworks separated by commas, in the order of reports; throws `OPTION_INVALID`. */
export function parseFrameworks(text: string): readonly Framework[] {
  const names = text.split(",").map((name) => name.trim());
  const unknown = names.find((name) => !frameworks.some((known) => known === name));
  if (unknown !== undefined) {
    throw invalid(
      `--frameworks ${text}`,
      `has "${unknown}", which is none of ${frameworks.join(", ")}`,
    );
  }
  return frameworks.filter((name) => names.includes(name));
}

/**
 * Every combination of the swept values that changes its framework: `cut` is not swept for `kd`, which would run the
 * same federation again.
 */
export function configurationsOf(
  chosen: readonly Framework[],
  sweep: Sweep,
): readonly Configuration[] {
  return chosen.flatMap((framework) =>
    Object.entries(sweep)
      .filter(([name]) => affects(fieldOf(name)).includes(framework))
      .reduce<readonly Configuration[]>(
        (configurations, [name, values]) =>
          configurations.flatMap((configuration) =>
            values.map((value) => ({
              framework,
              options: { ...configuration.options, [name]: value },
            })),
          ),
        [{ framework, options: {} }],
      ),
  );
}

/** Path of the task's field that an option sets. */
export function fieldOf(option: string): string {
  return shortNames[option] ?? option;
}

/** The option that is no field of the task: how many public texts there are. */
export const publicSizeField = "data.publicSize";

/** Other names are fields' own: `full.encoding`, `training.localSteps`. */
const shortNames: Readonly<Record<string, string>> = {
  rank: "adapter.rank",
  cut: "split.cutLayer",
  topK: "kd.topK",
  publicSize: publicSizeField,
};

/** Frameworks whose numbers the fields below a group shape; a group that is not here shapes all. */
const affected: Readonly<Record<string, readonly Framework[]>> = {
  kd: ["kd", "mixed"],
  data: ["kd", "mixed"],
  split: ["split", "mixed"],
  // The front of split travels as full's updates do, and both enter one mean.
  full: ["full", "split", "mixed"],
  aggregation: ["full", "split", "mixed"],
};

function affects(field: string): readonly Framework[] {
  return affected[field.split(".")[0] ?? ""] ?? frameworks;
}

function scalarOf(text: string, value: string): OptionValue {
  let parsed: unknown;
  try {
    parsed = parse(value);
  } catch {
    parsed = undefined;
  }
  if (["string", "number", "boolean"].includes(typeof parsed)) return parsed as OptionValue;
  throw invalid(`--sweep ${text}`, `has the value "${value}", which is no number or word`);
}

function invalid(option: string, problem: string): Error {
  return appErrors.error("OPTION_INVALID", `${option}: ${problem}`, {
    hint: "For example: --frameworks full,kd --sweep rank=2,4,8 --sweep full.encoding=float32,int8",
  });
}
