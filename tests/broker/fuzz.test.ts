// A small seeded share of what `npm run bench -- transport` throws at envelopes, a link and the broker.
import t from "tap";
import { fuzz } from "../../benchmarks/transport/fuzz.ts";

t.test("hostile bytes crash nothing, and what they met still serves", async (t) => {
  const { tried, crashes, byKind } = await fuzz({ cases: 5000, seed: 1, log: () => {} });
  t.same(crashes, []);
  t.ok(tried >= 5000, `${tried}`);
  for (const target of ["envelope", "link", "packet"])
    for (const kind of ["random", "flipped", "cut", "stretched", "lengths", "spliced"])
      t.ok((byKind[`${target} ${kind}`] ?? 0) > 20, `${target} ${kind}`);
});
