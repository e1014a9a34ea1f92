import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { catalogues, errorPage } from "../../scripts/error-page.ts";
import { sourcesIn } from "./sources.ts";

const FOLDERS = ["apps", "broker", "devices", "protocols", "runtime"];
const sources = sourcesIn(FOLDERS)
  // It only sorts codes by exit status.
  .filter(({ file }) => file !== join("apps", "failure.ts"))
  .map(({ text }) => text);
const codes = Object.values(catalogues).flatMap(({ meanings }) => Object.keys(meanings));

t.test("docs/errors.md documents every code and no other", async (t) => {
  const page = readFileSync(join("docs", "errors.md"), "utf8");
  const documented = [...page.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code);
  t.same([...documented].sort(), [...codes].sort());
  t.ok(page === errorPage(), "made anew by: node dist/scripts/error-page.js");
});

t.test("the page knows every catalogue of the code", async (t) => {
  const declared = sources.flatMap((text) =>
    // devices/ imports nothing of ours and so declares its catalogue by hand.
    [...text.matchAll(/export const (\w+) = (?:defineErrors\(|\{\n {2}meanings)/g)].map(
      ([, name]) => name,
    ),
  );
  t.same(declared.sort(), Object.keys(catalogues).sort());
});

t.test("no code is declared twice", async (t) => {
  t.same(
    codes.filter((code, index) => codes.indexOf(code) !== index),
    [],
  );
});

t.test("every code is raised somewhere", async (t) => {
  // A declaration ends in a colon; a use is a quoted string.
  const text = sources.join("\n");
  t.same(
    codes.filter((code) => !text.includes(`"${code}"`)),
    [],
  );
});
