// Charts as SVG text. Written by hand: chart libraries draw in a browser or need a DOM here, and three
// still pictures that open without a network for years take fewer lines than setting one up.
import { decimal, percent } from "./figures.ts";
import { html, type Markup } from "./markup.ts";

/** A line over rounds with horizontal lines to compare it with. */
export interface LineChart {
  /** What the values are: fractions 0..1, written in percent, or numbers above 0. */
  readonly values: "fractions" | "numbers";
  readonly title: string;
  readonly xTitle: string;
  readonly yTitle: string;
  /** In order; `x` is shown under the axis. */
  readonly points: readonly { readonly x: number; readonly y: number }[];
  readonly levels: readonly { readonly name: string; readonly y: number }[];
}

/** Groups of bars from left to right. */
export interface BarChart {
  readonly title: string;
  readonly scale: "linear" | "log";
  readonly groups: readonly {
    readonly name: string;
    readonly bars: readonly Bar[];
  }[];
  readonly format: (value: number) => string;
}

/** One bar, before a pale one for what it is compared with. */
export interface Bar {
  readonly name: string;
  readonly value: number;
  readonly against?: number;
  /** Stands to its right. */
  readonly text: string;
}

/** Colour of the n-th level: a class of the page's style sheet. */
export function levelClass(index: number): string {
  return `level${index % 4}`;
}

const width = 400;

/** Draws a line chart, 400 units wide. */
export function lineChart({ values, title, xTitle, yTitle, points, levels }: LineChart): Markup {
  const [left, right, top, bottom] = [46, 344, 14, 222];
  const { axis, tickText, text } = scales[values];
  const { low, high, ticks } = axis([...points, ...levels].map(({ y }) => y));
  const first = points[0]?.x ?? 0;
  const span = Math.max(1, (points.at(-1)?.x ?? 0) - first);
  // A single round stands in the middle.
  const x = (value: number) =>
    points.length === 1 ? (left + right) / 2 : left + ((value - first) / span) * (right - left);
  const y = (value: number) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const every = Math.ceil(points.length / 10);
  const path = points.map((point) => `${round(x(point.x))},${round(y(point.y))}`).join(" ");
  const last = points.at(-1);
  const marks = [
    ...levels.map((level, i) => ({ y: level.y, style: levelClass(i) })),
    ...(last ? [{ y: last.y, style: "series" }] : []),
  ];
  return html`<svg viewBox="0 0 ${width} 262" role="img" aria-label="${title}"><g class="axis">${ticks.map(
    (tick) =>
      html`<line x1="${left}" x2="${right}" y1="${round(y(tick))}" y2="${round(y(tick))}"/><text x="${left - 6}" y="${round(y(tick) + 4)}" text-anchor="end">${tickText(tick)}</text>`,
  )}${points
    .filter((_, i) => i % every === 0)
    .map(
      (point) =>
        html`<text x="${round(x(point.x))}" y="${bottom + 17}" text-anchor="middle">${point.x}</text>`,
    )}<text x="${(left + right) / 2}" y="${bottom + 36}" text-anchor="middle">${xTitle}</text><text x="12" y="${(top + bottom) / 2}" text-anchor="middle" transform="rotate(-90 12 ${(top + bottom) / 2})">${yTitle}</text></g>${levels.map(
    (level, i) =>
      html`<line class="level ${levelClass(i)}" x1="${left}" x2="${right}" y1="${round(y(level.y))}" y2="${round(y(level.y))}"><title>${level.name}: ${text(level.y)}</title></line>`,
  )}<polyline class="series" points="${path}"/>${points.map(
    (point) =>
      html`<circle class="series" cx="${round(x(point.x))}" cy="${round(y(point.y))}" r="3.5"><title>${xTitle} ${point.x}: ${text(point.y)}</title></circle>`,
  )}${spread(
    marks.map((mark) => y(mark.y)),
    bottom,
  ).map(
    (at, i) =>
      html`<text class="mark ${marks[i]?.style}" x="${right + 7}" y="${round(at + 4)}">${text(marks[i]?.y ?? 0)}</text>`,
  )}</svg>`;
}

/** Draws a bar chart, 400 units wide and as high as it has bars. */
export function barChart({ title, scale, groups, format }: BarChart): Markup {
  const [left, right, barHeight, groupGap] = [44, 254, 17, 26];
  const bars = groups.flatMap((group) => group.bars);
  const axis = (scale === "log" ? decadeAxis : linearAxis)(
    bars.flatMap(({ value, against = 0 }) => [value, against]),
  );
  const x = (value: number) => left + axis.place(value) * (right - left);
  const rows: Markup[] = [];
  let top = 4;
  for (const { name, bars: own } of groups) {
    rows.push(html`<text class="name" x="0" y="${top + 15}">${name}</text>`);
    top += 21;
    for (const { name: what, value, against, text } of own) {
      const pale =
        against === undefined
          ? undefined
          : html`<rect class="pale" x="${left}" y="${top}" width="${round(x(against) - left)}" height="${barHeight - 3}"/>`;
      rows.push(
        html`${pale}<rect class="bar" x="${left}" y="${top + 3}" width="${round(x(value) - left)}" height="${barHeight - 9}"/><text x="${left - 6}" y="${top + 11}" text-anchor="end">${what}</text><text x="${right + 8}" y="${top + 11}">${text}</text>`,
      );
      top += barHeight;
    }
    top += groupGap - 21;
  }
  const grid = axis.ticks.map(
    (tick) =>
      html`<line x1="${round(x(tick))}" x2="${round(x(tick))}" y1="4" y2="${top}"/><text x="${round(x(tick))}" y="${top + 15}" text-anchor="middle">${format(tick)}</text>`,
  );
  return html`<svg viewBox="0 0 ${width} ${top + 22}" role="img" aria-label="${title}"><g class="axis">${grid}</g>${rows}</svg>`;
}

/** Tenths, or fifths where tenths would crowd, around the values. */
function fractionAxis(values: readonly number[]) {
  const step = Math.max(...values) - Math.min(...values) > 0.6 ? 0.2 : 0.1;
  const low = Math.max(0, Math.floor(Math.min(...values, 0.9) / step) * step);
  const high = Math.min(1, Math.max(low + step, Math.ceil(Math.max(...values, 0) / step) * step));
  const count = Math.round((high - low) / step);
  return { low, high, ticks: Array.from({ length: count + 1 }, (_, i) => low + i * step) };
}

/** In steps of 1, 2 or 5 times a power of ten around the values. */
function rangeAxis(values: readonly number[]) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const span = Math.max(most - least, 0.01 * most, 1e-6);
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= span / 4) ?? 10);
  const first = Math.floor(least / step);
  const count = Math.max(1, Math.ceil(most / step) - first);
  const ticks = Array.from({ length: count + 1 }, (_, i) => (first + i) * step);
  return { low: first * step, high: (first + count) * step, ticks };
}

/** How the values of a line are placed and written. */
const scales = {
  fractions: {
    axis: fractionAxis,
    tickText: (tick: number) => (100 * tick).toFixed(0),
    text: percent,
  },
  numbers: { axis: rangeAxis, tickText: decimal, text: decimal },
} as const;

interface Axis {
  readonly ticks: readonly number[];
  /** Where a value stands, 0..1. */
  place(value: number): number;
}

/** Whole decades; nothing (0) stands at the left end. */
function decadeAxis(values: readonly number[]): Axis {
  const some = values.filter((value) => value > 0);
  // Halved, so that the smallest bar can be seen.
  const low = Math.floor(Math.log10(Math.min(...some, 1e6) / 2));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...some, 10))));
  const every = Math.ceil((high - low) / 4);
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  return {
    ticks: ticks.filter((_, i) => i % every === 0).map((exponent) => 10 ** exponent),
    place: (value) => (value > 0 ? Math.max(0, Math.log10(value) - low) / (high - low) : 0),
  };
}

/** From 0 in steps of 1, 2 or 5 times a power of ten. */
function linearAxis(values: readonly number[]): Axis {
  const most = Math.max(...values, 1);
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= most / 4) ?? 10);
  const count = Math.ceil(most / step);
  return {
    ticks: Array.from({ length: count + 1 }, (_, i) => i * step),
    // A peak below the idle process is possible, and no bar.
    place: (value) => Math.max(0, value) / (count * step),
  };
}

/** Moves heights apart until texts do not overlap, keeping their order and staying above `bottom`. */
function spread(heights: readonly number[], bottom: number): number[] {
  const lineHeight = 14;
  const order = heights.map((_, i) => i).sort((a, b) => (heights[a] ?? 0) - (heights[b] ?? 0));
  const placed = [...heights];
  let free = Number.NEGATIVE_INFINITY;
  for (const i of order) {
    placed[i] = Math.max(placed[i] ?? 0, free);
    free = (placed[i] ?? 0) + lineHeight;
  }
  free = bottom;
  for (const i of order.toReversed()) {
    placed[i] = Math.min(placed[i] ?? 0, free);
    free = (placed[i] ?? 0) - lineHeight;
  }
  return placed;
}

function round(value: number): number {
  return Math.round(10 * value) / 10;
}
