// The files that a comparison leaves in its folder.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/index.ts";
import type { ComparisonResult } from "./comparison.ts";
import { comparisonCsv } from "./csv.ts";
import { drawPng, drawSvg } from "./draw-plot.ts";
import { plotsOf } from "./plots.ts";

/** Writes compare.json, compare.csv and plots/ as SVG and PNG; gives the paths to show. */
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
  for (const { name, spec } of plotsOf(result)) {
    const svg = await drawSvg(spec);
    await file(join("plots", `${name}.svg`), svg);
    const png = drawPng(svg);
    if (png) await file(join("plots", `${name}.png`), png);
  }
  return [
    await file("compare.json", `${JSON.stringify(result, undefined, 2)}\n`),
    await file("compare.csv", comparisonCsv(result)),
    folder,
  ];
}
