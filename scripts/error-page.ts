// Writes docs/errors.md from the catalogues: node dist/scripts/error-page.js. A test holds both equal.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compareErrors } from "../apps/compare/errors.ts";
import { coordinatorErrors } from "../apps/coordinator/errors.ts";
import { demoErrors } from "../apps/demo/errors.ts";
import { deviceProgramErrors } from "../apps/device/errors.ts";
import { appErrors } from "../apps/errors.ts";
import { exitStatusOf } from "../apps/failure.ts";
import { keyErrors } from "../apps/keys/errors.ts";
import { virtualBoardErrors } from "../apps/virtual-boards/errors.ts";
import { brokerErrors } from "../broker/index.ts";
import { deviceErrors } from "../devices/index.ts";
import { protocolErrors } from "../protocols/index.ts";
import { runtimeErrors } from "../runtime/index.ts";

/** Every catalogue by the name it is exported under, in the order of the page. */
export const catalogues: Readonly<Record<string, Catalogue>> = {
  appErrors: { area: "Programs", meanings: appErrors.meanings },
  coordinatorErrors: { area: "Coordinator", meanings: coordinatorErrors.meanings },
  deviceProgramErrors: { area: "Device program", meanings: deviceProgramErrors.meanings },
  keyErrors: { area: "Keys", meanings: keyErrors.meanings },
  compareErrors: { area: "Comparisons", meanings: compareErrors.meanings },
  virtualBoardErrors: { area: "Virtual boards", meanings: virtualBoardErrors.meanings },
  demoErrors: { area: "Demo", meanings: demoErrors.meanings },
  brokerErrors: { area: "Broker and transport", meanings: brokerErrors.meanings },
  protocolErrors: { area: "Protocols", meanings: protocolErrors.meanings },
  runtimeErrors: { area: "Models, data and training", meanings: runtimeErrors.meanings },
  deviceErrors: { area: "Boards", meanings: deviceErrors.meanings },
};

/** A part of the program with its codes and what they mean. */
export interface Catalogue {
  readonly area: string;
  readonly meanings: Readonly<Record<string, string>>;
}

/** The text of docs/errors.md. */
export function errorPage(): string {
  const sections = Object.values(catalogues).map(({ area, meanings }) => {
    const rows = Object.entries(meanings)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([code, meaning]) => `| \`${code}\` | ${exitStatusOf({ code })} | ${meaning} |`);
    return [`## ${area}`, "", "| code | exit | meaning |", "| --- | --- | --- |", ...rows].join(
      "\n",
    );
  });
  return `${INTRODUCTION}\n\n${sections.join("\n\n")}\n`;
}

const INTRODUCTION = `# Error codes

Every failure names a code, what went wrong and where, and mostly a hint what to do:

\`\`\`
error DATA_COLUMN_MISSING: texts.csv has no column "text"; it has "id", "body", "label"
hint: Name the column; cells are separated by commas and the first row holds the names.
\`\`\`

A command exits with 2 when its usage or configuration is wrong (running it again cannot help), with 1 when it
failed otherwise, with 130 when it was interrupted. \`USAGE_INVALID\` is an unknown command or option; \`UNEXPECTED\` is an error of Trifold's own:
set \`TRIFOLD_DEBUG=1\` to see where, and report it. Errors never hold the content of a row.

This page is made by \`node dist/scripts/error-page.js\`. A code that is retired is not used again.`;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFile(join("docs", "errors.md"), errorPage());
}
