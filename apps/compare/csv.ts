// compare.csv: one row for each round of each federation, for spreadsheets and plots of one's own.
import { type ComparisonResult, type ConfigurationFigures, networkLinks } from "./comparison.ts";

/** The whole file; options have a column each. */
export function comparisonCsv({ task, configurations }: ComparisonResult): string {
  const options = [...new Set(configurations.flatMap((one) => Object.keys(one.options)))];
  const head = [
    ...["framework", ...options, "seed", "round", task.metric, "devices"],
    ...["uplinkBytes", "downlinkBytes", "rawUplinkBytes", "rawDownlinkBytes"],
    ...["flops", "peakMemoryBytes", "seconds"],
    ...networkLinks.map(({ name }) => `seconds on ${name}`),
    "estimatedJoules",
  ];
  const rows = configurations.flatMap((configuration) => rowsOf(configuration, options));
  return [head, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

type Cell = string | number | boolean | undefined;

function rowsOf(configuration: ConfigurationFigures, options: readonly string[]): Cell[][] {
  const { framework, perSeed } = configuration;
  const own = options.map((name) => configuration.options[name]);
  return perSeed.flatMap(({ seed, rounds }) =>
    rounds.map((round) => [
      ...[framework, ...own, seed, round.round, round.score, round.devices],
      ...[round.uplinkBytes, round.downlinkBytes, round.rawUplinkBytes, round.rawDownlinkBytes],
      ...[round.flops, round.peakMemoryBytes, round.seconds],
      ...round.secondsOnLink,
      round.estimatedJoules,
    ]),
  );
}

/** RFC 4180: quoted where a comma, a quote or a line end would be misread. */
function cell(value: Cell): string {
  const text = value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
