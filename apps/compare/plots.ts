// The plots of a comparison as Vega-Lite specifications. Colours are Okabe and Ito's, which the colour-blind tell apart;
// shapes and dashes say the same again for print in grey.
import type { TopLevelSpec } from "vega-lite";
import { type ComparisonResult, labelOf, networkLinks, type SeedFigures } from "./comparison.ts";
import { scoreOf } from "./comparison-text.ts";
import { type Estimate, estimateOf, meanOf } from "./statistics.ts";

/** A plot with the name of its files. */
export interface Plot {
  readonly name: string;
  readonly title: string;
  /** What a reader must know beside the axes. */
  readonly note?: string;
  readonly spec: TopLevelSpec;
}

/** Every plot of the report, in its order. */
export function plotsOf(result: ComparisonResult): readonly Plot[] {
  const { task } = result;
  const metric = task.metric === "accuracy" ? "Accuracy" : "Perplexity";
  const links = networkLinks.map(({ name, roundTripSeconds }, i): Plot => {
    const seconds = (run: SeedFigures) => running(run, (round) => round.secondsOnLink[i] ?? 0);
    return {
      name: `score-time-${name.split(" ")[0]}mbit`,
      title: `${metric} against time on ${name}`,
      note: `computed: this machine's seconds, the bytes over the link, ${1000 * roundTripSeconds} ms a round trip; logarithmic`,
      spec: curves(result, { title: "time since the start, s", isLog: true, read: seconds }),
    };
  });
  const bytes = (run: SeedFigures) =>
    running(run, (round) => round.uplinkBytes + round.downlinkBytes);
  return [
    {
      name: "score-final",
      title: `${metric} after the last round`,
      note: "mean and 95 % interval over the seeds; baselines in grey",
      spec: finalScores(result),
    },
    {
      name: "score-rounds",
      title: `${metric} per round`,
      note: "of the global model; bands are 95 % intervals over the seeds",
      spec: curves(result, {
        title: "round",
        isLog: false,
        read: (run) => run.rounds.map(({ round }) => round),
      }),
    },
    {
      name: "score-bytes",
      title: `${metric} against bytes`,
      note: "up and down together; logarithmic",
      spec: curves(result, { title: "bytes per device since the start", isLog: true, read: bytes }),
    },
    ...links,
    {
      name: "bytes",
      title: "Bytes per device and round",
      note: "raw: the same messages in float32, both ways; logarithmic",
      spec: bytesSpec(result),
    },
    {
      name: "flops",
      title: "Work per device and round",
      note: "floating-point operations of the graphs that ran",
      spec: bars(result, "FLOP", (run) => run.flopsPerDeviceRound),
    },
    {
      name: "memory",
      title: "Peak memory of a device",
      note: "highest of all devices and rounds, above the idle process",
      spec: bars(result, "bytes", (run) => run.peakMemoryBytes),
    },
    ...joulesPlot(result),
  ];
}

/** Okabe and Ito 2008, without their yellow, which paper swallows. */
const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const shapes = [
  "circle",
  "square",
  "triangle-up",
  "diamond",
  "cross",
  "triangle-down",
  "triangle-left",
];
const dashes = [
  [1, 0],
  [6, 3],
  [2, 2],
  [8, 3, 2, 3],
  [10, 4],
  [4, 1],
  [1, 3],
];
const size = { width: 400, height: 240 };

const logarithmic = { scale: { type: "log" }, axis: { tickCount: 5, format: "~s" } } as const;
const rounds = {
  scale: { zero: false, nice: false, padding: 12 },
  axis: { tickMinStep: 1, format: "d" },
} as const;

/** A legend's scales: the n-th configuration looks the same in every plot. */
function scalesOf({ configurations }: ComparisonResult) {
  const domain = configurations.map(labelOf);
  const cycle = <T>(values: readonly T[]) => domain.map((_, i) => values[i % values.length] as T);
  const legend = {
    title: null,
    symbolLimit: 0,
    labelLimit: 240,
    symbolOpacity: 1,
    orient: "bottom",
    columns: 4,
  } as const;
  return {
    color: { field: "label", type: "nominal", scale: { domain, range: cycle(colours) }, legend },
    shape: { field: "label", type: "nominal", scale: { domain, range: cycle(shapes) }, legend },
    dash: { field: "label", type: "nominal", scale: { domain, range: cycle(dashes) }, legend },
  } as const;
}

function scoreAxis({ task }: ComparisonResult) {
  return task.metric === "accuracy"
    ? ({ title: "accuracy on the test set, %", factor: 100 } as const)
    : ({ title: "perplexity on the test set", factor: 1 } as const);
}

/** Sums after each round. */
function running(
  { rounds }: SeedFigures,
  read: (round: SeedFigures["rounds"][number]) => number,
): readonly number[] {
  let sum = 0;
  return rounds.map((round) => {
    sum += read(round);
    return sum;
  });
}

/** The mean score of each round over its seeds, at the mean of what stands on the horizontal axis. */
function curves(
  result: ComparisonResult,
  x: {
    readonly title: string;
    readonly isLog: boolean;
    readonly read: (run: SeedFigures) => readonly number[];
  },
): TopLevelSpec {
  const { title, factor } = scoreAxis(result);
  const values = result.configurations.flatMap((one) => {
    const places = one.perSeed.map(x.read);
    const length = Math.min(...one.perSeed.map((run) => run.rounds.length));
    return Array.from({ length }, (_, i) => ({
      label: labelOf(one),
      x: meanOf(places.map((place) => place[i] as number)),
      ...spread(estimateOf(one.perSeed.map((run) => run.rounds[i]?.score ?? 0)), factor),
    }));
  });
  const { color, shape, dash } = scalesOf(result);
  const horizontal = {
    field: "x",
    type: "quantitative",
    title: x.title,
    ...(x.isLog ? logarithmic : rounds),
  } as const;
  const vertical = { field: "y", type: "quantitative", title, scale: { zero: false } } as const;
  const band = { type: "area", opacity: 0.15 } as const;
  return {
    ...size,
    data: { values },
    layer: [
      {
        mark: band,
        encoding: { x: horizontal, y: { ...vertical, field: "low" }, y2: { field: "high" }, color },
      },
      { mark: "line", encoding: { x: horizontal, y: vertical, color, strokeDash: dash } },
      {
        mark: { type: "point", filled: true, size: 55, opacity: 1 },
        encoding: { x: horizontal, y: vertical, color, shape },
      },
    ],
  };
}

function finalScores(result: ComparisonResult): TopLevelSpec {
  const { title, factor } = scoreAxis(result);
  const { configurations, baselines, task } = result;
  const majority: Estimate[] =
    task.majority === undefined ? [] : [{ mean: task.majority, std: 0, interval95: null }];
  const rows = [
    ...configurations.map((one) => ({ label: labelOf(one), kind: "run", estimate: scoreOf(one) })),
    ...baselines.map((one) => ({ label: one.name, kind: "baseline", estimate: scoreOf(one) })),
    ...majority.map((estimate) => ({ label: "most frequent label", kind: "baseline", estimate })),
  ];
  const values = rows.map(({ estimate, ...row }) => ({ ...row, ...spread(estimate, factor) }));
  const y = { field: "label", type: "nominal", title: null, sort: null } as const;
  const color = {
    field: "kind",
    type: "nominal",
    scale: { domain: ["run", "baseline"], range: [colours[0] as string, "#777777"] },
    legend: null,
  } as const;
  const axis = { type: "quantitative", title, scale: { zero: false } } as const;
  return {
    width: size.width,
    height: { step: 22 },
    data: { values },
    layer: [
      {
        mark: { type: "rule", strokeWidth: 2 },
        encoding: { x: { ...axis, field: "low" }, x2: { field: "high" }, y, color },
      },
      {
        mark: { type: "point", filled: true, size: 70, opacity: 1 },
        encoding: { x: { ...axis, field: "y" }, y, color },
      },
      {
        mark: { type: "text", align: "left", dx: 9, dy: -7, fontSize: 10 },
        encoding: { x: { ...axis, field: "y" }, y, text: { field: "y", format: ".1f" } },
      },
    ],
  };
}

function bytesSpec(result: ComparisonResult): TopLevelSpec {
  const values = result.configurations.flatMap((one) => {
    const label = labelOf(one);
    return [
      { label, way: "up", bytes: one.uplinkBytesPerDeviceRound },
      { label, way: "down", bytes: one.downlinkBytesPerDeviceRound },
      { label, way: "raw, up and down", bytes: one.rawBytesPerDeviceRound },
    ];
  });
  const domain = ["up", "down", "raw, up and down"];
  const legend = { title: null, orient: "bottom" } as const;
  return {
    width: size.width,
    height: { step: 30 },
    data: { values },
    mark: { type: "point", filled: true, size: 80, opacity: 1 },
    encoding: {
      x: {
        field: "bytes",
        type: "quantitative",
        title: "bytes",
        ...logarithmic,
      },
      y: { field: "label", type: "nominal", title: null, sort: null, axis: { grid: true } },
      color: {
        field: "way",
        type: "nominal",
        scale: { domain, range: [colours[1] as string, colours[0] as string, "#888888"] },
        legend,
      },
      shape: {
        field: "way",
        type: "nominal",
        scale: { domain, range: ["triangle-up", "triangle-down", "circle"] },
        legend,
      },
    },
  };
}

function bars(
  result: ComparisonResult,
  unit: string,
  read: (run: SeedFigures) => number,
): TopLevelSpec {
  const values = result.configurations.map((one) => ({
    label: labelOf(one),
    ...spread(estimateOf(one.perSeed.map(read)), 1),
  }));
  const y = { field: "label", type: "nominal", title: null, sort: null } as const;
  const x = { type: "quantitative", title: unit, axis: { tickCount: 5, format: "~s" } } as const;
  return {
    width: size.width,
    height: { step: 26 },
    data: { values },
    layer: [
      {
        mark: { type: "bar", color: colours[0] as string, height: { band: 0.6 } },
        encoding: { x: { ...x, field: "y" }, y },
      },
      {
        mark: { type: "rule", strokeWidth: 2 },
        encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, y },
      },
      {
        mark: { type: "text", align: "left", dx: 4, dy: -8, fontSize: 10 },
        encoding: { x: { ...x, field: "y" }, y, text: { field: "y", format: ".3~s" } },
      },
    ],
  };
}

function joulesPlot(result: ComparisonResult): readonly Plot[] {
  const isKnown = result.configurations.every(
    (one) => one.estimatedJoulesPerDeviceRound !== undefined,
  );
  if (!isKnown) return [];
  return [
    {
      name: "joules",
      title: "Energy per device and round, estimated",
      note: "from the declared boards' rates and active power, not measured",
      spec: bars(result, "J", (run) => run.estimatedJoulesPerDeviceRound ?? 0),
    },
  ];
}

/** A mean with the ends of its interval; both are the mean where there is none. */
function spread({ mean, interval95 }: Estimate, factor: number) {
  const { low, high } = interval95 ?? { low: mean, high: mean };
  return { y: factor * mean, low: factor * low, high: factor * high };
}
