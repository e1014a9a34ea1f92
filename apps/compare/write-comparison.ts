// The files that a comparison leaves in its folder.
import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/index.ts";
import type { ComparisonResult } from "./comparison.ts";
import { comparisonCsv } from "./csv.ts";

/** Writes compare.json and compare.csv; gives their paths. */
export async function writeComparison(
  out: string,
  result: ComparisonResult,
): Promise<readonly string[]> {
  const file = async (name: string, content: string | Uint8Array): Promise<string> => {
    const path = join(out, name);
    await writeFileAtomic(path, content);
    return path;
  };
  return [
    await file("compare.json", `${JSON.stringify(result, undefined, 2)}\n`),
    await file("compare.csv", comparisonCsv(result)),
  ];
}
