// The comparison as one page: which configuration is best at what, the figures, the plots, and what they mean.
import { bytes, counted, flops } from "../report/figures.ts";
import { html, type Markup, trustedMarkup } from "../report/markup.ts";
import { documentPage, settingsList, table } from "../report/page.ts";
import {
  type ComparisonResult,
  type ConfigurationFigures,
  labelOf,
  networkLinks,
} from "./comparison.ts";
import { estimateText, scoreOf } from "./comparison-text.ts";
import type { Plot } from "./plots.ts";

/** A plot with what it was drawn as. */
export interface DrawnPlot extends Plot {
  readonly svg: string;
}

/** The whole HTML document. */
export function comparisonPage(result: ComparisonResult, plots: readonly DrawnPlot[]): string {
  const { task, machine, date, version, verdicts } = result;
  const { name, seeds, devices, partition } = task;
  const made = [`${date.slice(0, 16).replace("T", " ")} UTC`, `Trifold ${version}`, machine];
  const note = `${counted(devices, "device")} with texts dealt ${partition}, ${counted(seeds.length, "seed")} (${seeds.join(", ")}). The devices are processes of one machine and share it: seconds are this machine's, seconds on a link are computed, energy is estimated.`;
  const best = html`<section class="prose"><h2>Which is best at what</h2>${table(
    ["At", "Best", "How sure"],
    verdicts.map((one) => [html`${one.constraint}`, html`<b>${one.best}</b>`, html`${one.text}`]),
  )}</section>`;
  const body = html`<p class="note">${note}</p>
${verdicts.length > 0 ? best : undefined}
<section class="wide"><h2>Configurations</h2>${configurationTable(result)}</section>
<section><h2>Baselines</h2>${baselineTable(result)}</section>
<div class="charts">${plots.map(figure)}</div>
${definitions}
<section><h2>Task</h2>${settingsList(task.settings)}</section>`;
  return documentPage({ title: `Comparison: ${name}`, made, body });
}

function configurationTable({ configurations, task }: ComparisonResult): Markup {
  const { metric } = task;
  const withJoules = configurations.some((one) => one.estimatedJoulesPerDeviceRound !== undefined);
  const head = [
    ...[
      "Configuration",
      metric,
      "Up",
      "Down",
      "Raw, both",
      "Work",
      "Peak memory",
      "Seconds a round",
    ],
    ...networkLinks.map(({ name }) => `All rounds on ${name}`),
    ...(withJoules ? ["Energy, estimated"] : []),
  ];
  const row = (one: ConfigurationFigures) => [
    html`<b>${labelOf(one)}</b>`,
    scoreCell(metric, one),
    html`${bytes(one.uplinkBytesPerDeviceRound)}`,
    html`${bytes(one.downlinkBytesPerDeviceRound)}`,
    html`${bytes(one.rawBytesPerDeviceRound)}`,
    html`${flops(one.flopsPerDeviceRound)}`,
    html`${bytes(one.peakMemoryBytes)}`,
    html`${one.secondsPerRound.toFixed(1)} s`,
    ...networkLinks.map(({ name }) => html`${(one.secondsOnLink[name] ?? 0).toFixed(0)} s`),
    ...(withJoules ? [html`${(one.estimatedJoulesPerDeviceRound ?? 0).toFixed(0)} J`] : []),
  ];
  return table(head, configurations.map(row));
}

function scoreCell(metric: ComparisonResult["task"]["metric"], one: ConfigurationFigures): Markup {
  const { differenceToBest: difference } = one;
  const text = estimateText(metric, scoreOf(one));
  if (!difference) return html`${text}<small>best</small>`;
  const factor = metric === "accuracy" ? 100 : 1;
  const half = difference.interval95 && difference.interval95.high - difference.mean;
  const sign = difference.mean > 0 ? "+" : "";
  const spread = half === null ? "" : ` ± ${(factor * half).toFixed(1)}`;
  const unit = metric === "accuracy" ? " points" : "";
  return html`${text}<small>${sign}${(factor * difference.mean).toFixed(1)}${spread}${unit}</small>`;
}

function baselineTable({ baselines, task }: ComparisonResult): Markup {
  const { metric, majority, seeds } = task;
  const rows = baselines.map((one) => [
    html`${one.name}`,
    html`${estimateText(metric, scoreOf(one))}`,
    html`${counted(seeds.length, "seed")}`,
  ]);
  const most = majority === undefined ? [] : [majorityRow(majority)];
  return table(["Baseline", `${metric} on the test set`, ""], [...rows, ...most]);
}

function majorityRow(share: number): readonly Markup[] {
  const text = estimateText("accuracy", { mean: share, std: 0, interval95: null });
  return [html`always the most frequent label`, html`${text}`, html`of the test set`];
}

function figure({ title, note, svg }: DrawnPlot): Markup {
  return html`<figure><figcaption>${title} <small>${note ?? ""}</small></figcaption><div class="plot">${trustedMarkup(svg)}</div></figure>`;
}

const definitions = html`<section><h2>What the figures are</h2>
<p>Bytes are MQTT PUBLISH packets with headers and repeats, the mean over devices and rounds; raw is the same messages in float32. Work counts 2·m·n·k
for each matrix product of the graphs that ran. Peak memory is the highest of all devices and rounds, above the idle process, the mean over seeds. ± is half the 95 % interval
of the mean over the seeds by Student's t; differences to the best are paired by seed.</p>
<p>A round on a link takes as long as its slowest device: its seconds on this machine, its bytes both ways over the rate, and ${1000 * (networkLinks[0]?.roundTripSeconds ?? 0)} ms for each exchange
it waits for; then what the round took beside that device. Baselines saw as many examples as all devices together.</p></section>`;
