// What training is made of beside graphs: dropout masks, optimizers, schedules, losses, accumulated and bucketed batches.
import t from "tap";
import { dropoutMask, randomStream } from "../../runtime/index.ts";

t.test("a dropout mask is a function of its key, and keeps the mean", (t) => {
  const [length, probability] = [100_000, 0.3];
  const mask = dropoutMask(length, probability, [7, "dropout", 1, "a", 0, "name"]);
  const random = randomStream(7, "dropout", 1, "a", 0, "name");
  const kept = Math.fround(1 / 0.7);
  t.ok(
    mask.every((value) => value === (random.next() < probability ? 0 : kept)),
    "the stream of the same key decides",
  );
  const mean = mask.reduce((sum, value) => sum + value, 0) / length;
  // The deviation of the mean is sqrt(0.3 / 0.7 / 100,000) = 0.0021; five of them.
  t.ok(Math.abs(mean - 1) < 0.0105, `${mean}`);
  const other = dropoutMask(length, probability, [7, "dropout", 1, "a", 1, "name"]);
  const same = mask.reduce((sum, value, i) => sum + (value === other[i] ? 1 : 0), 0);
  // Independent masks agree with probability 0.3^2 + 0.7^2 = 0.58; deviation 0.0016.
  t.ok(Math.abs(same / length - 0.58) < 0.008, `${same / length}`);
  const part = dropoutMask(100, probability, [7, "dropout", 1, "a", 0, "name"]);
  t.same(part, mask.subarray(0, 100), "element i does not depend on the length");
  t.end();
});
