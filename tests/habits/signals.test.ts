import t from "tap";
import { sourcesIn } from "./sources.ts";

t.test("no timeout is joined to other signals: Node forgets it there", async (t) => {
  const folders = ["apps", "benchmarks", "broker", "devices", "protocols", "runtime", "tests"];
  const joined = sourcesIn(folders).filter(({ text }) =>
    /AbortSignal\.any\([^)]*AbortSignal\.timeout\(/.test(text),
  );
  t.same(
    joined.map(({ file }) => file),
    [],
    "apps/patience.ts in its place",
  );
});
