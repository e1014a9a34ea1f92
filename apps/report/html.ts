// A run as one page: no script, no font, no image from elsewhere, so it opens on any machine, offline.
import { labelOf, type Way } from "../../protocols/index.ts";
import { type BarChart, barChart, levelClass, lineChart } from "./charts.ts";
import {
  bytes,
  counted,
  decimal,
  flops,
  type MaybeScore,
  percent,
  scoreFigure,
} from "./figures.ts";
import { html, type Markup } from "./markup.ts";
import { documentPage, settingsList, table } from "./page.ts";
import type { RunReport } from "./run-report.ts";
import type { DeviceSummary } from "./run-summary.ts";

/** The whole HTML document. Whatever the report's texts hold is escaped. */
export function reportPage(report: RunReport): string {
  const { task, devices, revisions, notes = [], machine, date, version } = report;
  const made = [`${date.slice(0, 16).replace("T", " ")} UTC`, `Trifold ${version}`, machine];
  const body = html`${notes.map((note) => html`<p class="note">${note}</p>`)}
<div class="tiles">${tiles(report)}</div>
<div class="charts">
${scoreChart(report)}
${devices.length > 0 ? [bytesChart(devices), workChart(devices), memoryChart(devices)] : undefined}
</div>
<section><h2>Devices</h2>${deviceTable(devices)}</section>
${revisionSection(revisions)}
${estimateSection(devices)}
<section><h2>Task</h2>${settingsList(task)}</section>`;
  return documentPage({ title: task.name, made, body });
}

/** Who was given something else to do, and why; nothing when nobody was. */
function revisionSection(revisions: RunReport["revisions"]): Markup | undefined {
  if (revisions.length === 0) return undefined;
  const rows = revisions.map(
    ({ round, deviceId, from, to, because }) =>
      html`<div><dt>round ${round}: ${deviceId}</dt><dd>${from} → ${to}: ${because}</dd></div>`,
  );
  return html`<section><h2>Reassigned</h2><dl class="settings">${rows}</dl></section>`;
}

function tiles({ rounds, devices, ...score }: RunReport): Markup[] {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const frameworks = [...new Set(devices.map(({ framework }) => framework))].sort();
  const counts = frameworks.map(
    (name) => `${devices.filter(({ framework }) => framework === name).length} ${name}`,
  );
  const total = (read: (device: DeviceSummary) => number) => bytes(sum(devices.map(read)));
  const up = `${total(({ uplinkBytes }) => uplinkBytes)} up`;
  const down = `${total(({ downlinkBytes }) => downlinkBytes)} down`;
  const raw = total((device) => device.rawUplinkBytes + device.rawDownlinkBytes);
  const seconds = sum(rounds.map((round) => round.seconds)).toFixed(0);
  const reached = scoreFigure(score);
  const rows = [
    [reached?.text ?? "–", `${reached?.name ?? "score"} of the global model, test set`],
    [counted(rounds.length, "round"), `in ${seconds} s`],
    [counted(devices.length, "device"), counts.join(", ")],
    [up, `${down}; ${raw} in float32`],
  ];
  return rows.map(
    ([figure, text]) => html`<div><strong>${figure}</strong><span>${text}</span></div>`,
  );
}

function scoreChart({ rounds, baselines = [], ...score }: RunReport): Markup {
  const reached = scoreFigure(score);
  const isPerplexity = reached?.name === "perplexity";
  const title = isPerplexity ? "Perplexity of the global model" : "Accuracy of the global model";
  const yTitle = isPerplexity ? "perplexity on the test set" : "accuracy on the test set, %";
  const values = isPerplexity ? "numbers" : "fractions";
  const heightOf = (of: MaybeScore) => scoreFigure(of)?.value ?? 0;
  const levels = baselines.map(({ name, ...worth }) => ({ name, y: heightOf(worth) }));
  const points = rounds.map(({ round, ...worth }) => ({ x: round, y: heightOf(worth) }));
  const text = isPerplexity ? decimal : percent;
  const key = (name: string, style: string, value: number) =>
    html`<li><svg viewBox="0 0 22 10" width="22" height="10" aria-hidden="true"><line class="${style}" x1="0" x2="22" y1="5" y2="5"/></svg>${name} <b>${text(value)}</b></li>`;
  return html`<figure><figcaption>${title}</figcaption>
${lineChart({ values, title, xTitle: "round", yTitle, points, levels })}
<ul class="key">${reached && key("federation", "series", reached.value)}${levels.map(({ name, y }, i) => key(name, `level ${levelClass(i)}`, y))}</ul></figure>`;
}

function bytesChart(devices: readonly DeviceSummary[]): Markup {
  const bar = (name: string, value: number, against: number) => {
    return { name, value, against, text: `${bytes(value)} of ${bytes(against)}` };
  };
  const groups = devices.map((device) => ({
    name: `${device.id} · ${frameworkOf(device)}`,
    bars: [
      bar("up", device.uplinkBytes, device.rawUplinkBytes),
      bar("down", device.downlinkBytes, device.rawDownlinkBytes),
    ],
  }));
  return bars(
    "Bytes sent and received",
    "all rounds; pale: the same messages in float32; logarithmic",
    {
      scale: "log",
      groups,
      format: bytes,
    },
  );
}

function workChart(devices: readonly DeviceSummary[]): Markup {
  const groups = devices.map((device) => ({
    name: `${device.id} · ${frameworkOf(device)}`,
    bars: [{ name: "", value: device.flops, text: flops(device.flops) }],
  }));
  const note = "floating-point operations, all rounds";
  return bars("Work on the device", note, { scale: "linear", groups, format: flops });
}

function memoryChart(devices: readonly DeviceSummary[]): Markup {
  const groups = devices.map(({ id, peakMemoryBytes: value, estimate, ...device }) => ({
    name: `${id} · ${frameworkOf(device)}`,
    bars: [
      {
        name: "",
        value,
        text: bytes(value),
        ...(estimate && { against: estimate.peakMemoryBytes }),
      },
    ],
  }));
  const note = "most of any round, above the idle process; pale: as estimated";
  return bars("Training memory", note, { scale: "linear", groups, format: bytes });
}

function bars(title: string, note: string, chart: Omit<BarChart, "title">): Markup {
  // Ticks are round figures: "1.50 TFLOP" is 1.5, "10.0 kB" is 10.
  const format = (value: number) => {
    const [figure, unit] = chart.format(value).split(" ");
    return `${Number(figure)} ${unit}`;
  };
  return html`<figure><figcaption>${title} <small>${note}</small></figcaption>
${barChart({ ...chart, title, format })}</figure>`;
}

function deviceTable(devices: readonly DeviceSummary[]): Markup {
  const head = ["Device", "Framework, and why", "Up", "Down", "Work", "Time", "Peak memory"];
  const rows = devices.map((device) => {
    const { estimate, reason } = device;
    const against = (value: number, raw: number) =>
      html`${bytes(value)}<small>of ${bytes(raw)}</small>`;
    return [
      html`<b>${device.id}</b><small>${device.board}</small>`,
      html`<b>${frameworkOf(device)}</b><small>${withoutLabel(reason)}</small>`,
      against(device.uplinkBytes, device.rawUplinkBytes),
      against(device.downlinkBytes, device.rawDownlinkBytes),
      html`${flops(device.flops)}`,
      html`${device.seconds.toFixed(1)} s`,
      html`${bytes(device.peakMemoryBytes)}${estimate && html`<small>estimated ${bytes(estimate.peakMemoryBytes)}</small>`}`,
      html`${scoreFigure(device)?.text ?? "–"}`,
    ];
  });
  return table([...head, "Own hold-out"], rows);
}

/** What selection expected of one round beside the mean of what the rounds took. */
function estimateSection(devices: readonly DeviceSummary[]): Markup | undefined {
  const rows = devices.flatMap((device) => {
    const { estimate, rounds } = device;
    if (!estimate || rounds === 0) return [];
    const pair = (measured: number, estimated: number, format: (value: number) => string) =>
      html`${format(measured)}<small>${format(estimated)} ${deviation(measured, estimated)}</small>`;
    return [
      [
        html`<b>${device.id}</b><small>${frameworkOf(device)}</small>`,
        pair(device.peakMemoryBytes, estimate.peakMemoryBytes, bytes),
        pair(device.uplinkBytes / rounds, estimate.uplinkBytes, bytes),
        pair(device.downlinkBytes / rounds, estimate.downlinkBytes, bytes),
        pair(device.flops / rounds, estimate.flops, flops),
      ],
    ];
  });
  if (rows.length === 0) return undefined;
  const head = ["Device", "Peak memory", "Up", "Down", "Work"];
  return html`<section><h2>Measured and estimated, a round</h2><p>First what a round took, below it what selection had estimated.</p>${table(head, rows)}</section>`;
}

function frameworkOf(device: Way & Pick<DeviceSummary, "framework">): string {
  return labelOf({ ...device, protocol: device.framework });
}

/** A reason begins with the framework that stands above it. */
function withoutLabel(reason: string): string {
  return reason.slice(reason.indexOf(": ") + 1).trim();
}

function deviation(measured: number, estimated: number): string {
  if (estimated <= 0) return "";
  const part = Math.round(100 * (measured / estimated - 1));
  return part === 0 ? "(±0 %)" : `(${part > 0 ? "+" : "−"}${Math.abs(part)} %)`;
}
