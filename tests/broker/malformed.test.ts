// Input that no honest peer sends: `npm run bench -- transport --only malformed` tries a hundred thousand.
import t from "tap";
import { tryMalformed } from "../../benchmarks/transport/malformed.ts";

t.test("whatever comes ends in a coded error, and honest peers are still served", async (t) => {
  const result = await tryMalformed({ cases: 3000, seed: 1, log: () => {} });
  t.same(result.failures, []);
  t.ok(result.tried >= 3000, `${result.tried}`);
  t.match(result.byKind, { frames: 1350, envelopes: 1200, link: 420, broker: 30 });
});
