// The files that a comparison leaves in its folder.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/index.ts";
import type { ComparisonResult } from "./comparison.ts";
import { comparisonPage, type DrawnPlot } from "./comparison-page.ts";
import { comparisonCsv } from "./csv.ts";
import { drawPng, drawSvg } from "./draw-plot.ts";
import { plotsOf } from "./plots.ts";

/** Writes compare.html, compare.json, compare.csv and plots/ as SVG and PNG; gives the paths to show. */
export async function writeComparison(
  out: string,
  result: ComparisonResult,
): Promise<readonly string[]> {
  const file = async (name: string, content: string | Uint8Array): Promise<string> => {
    const path = join(out, name);
    await writeFileAtomic(path, content);
    return path;
  };
  const folder = join(out, "plots");
  await mkdir(folder, { recursive: true });
  const drawn: DrawnPlot[] = [];
  for (const plot of plotsOf(result)) {
    const svg = await drawSvg(plot.spec);
    drawn.push({ ...plot, svg });
    await file(join("plots", `${plot.name}.svg`), svg);
    const png = drawPng(svg);
    if (png) await file(join("plots", `${plot.name}.png`), png);
  }
  return [
    await file("compare.html", comparisonPage(result, drawn)),
    await file("compare.json", `${JSON.stringify(result, undefined, 2)}\n`),
    await file("compare.csv", comparisonCsv(result)),
    folder,
  ];
}
