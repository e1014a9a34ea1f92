// Half a minute of the soak that `npm run bench -- transport` runs for half an hour.
import t from "tap";
import { soak } from "../../benchmarks/transport/soak.ts";

t.test("half a minute of faults costs no round and no bit", async (t) => {
  const { roundsClosed, roundsLost, wrongNumbers, faults } = await soak({
    minutes: 0.5,
    seed: 5,
    log: (line) => t.comment(line),
  });
  t.ok(roundsClosed >= 3, `${roundsClosed} rounds`);
  t.ok(faults > 0, `${faults} faults`);
  t.match({ roundsLost, wrongNumbers }, { roundsLost: 0, wrongNumbers: 0 });
});
