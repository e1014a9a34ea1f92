import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";

t.test("no timeout is joined to other signals: Node forgets it there", async (t) => {
  const folders = ["apps", "benchmarks", "broker", "devices", "protocols", "runtime", "tests"];
  const files = folders.flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => join(folder, file)),
  );
  const joined = files.filter((file) =>
    /AbortSignal\.any\([^)]*AbortSignal\.timeout\(/.test(readFileSync(file, "utf8")),
  );
  t.same(joined, [], "apps/patience.ts in its place");
});
