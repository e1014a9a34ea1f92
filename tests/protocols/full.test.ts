// What `full` keeps, sends and computes under each of its options.
import t from "tap";
import { readSection, stageSections } from "../../protocols/client-memory.ts";
import type { ClientState } from "../../protocols/index.ts";
import { float32, type Parameters } from "../../runtime/index.ts";

const values = (tensors: Parameters | undefined) =>
  tensors && Object.fromEntries([...tensors].map(([name, { data }]) => [name, [...data]]));

const tensor = (name: string, ...data: number[]): Parameters =>
  new Map([[name, float32([data.length], data)]]);

/** A state that commits whatever is staged. */
function committing(): ClientState {
  let committed: Parameters | undefined;
  return {
    read: async () => committed,
    stage: async (tensors) => {
      committed = tensors;
    },
  };
}

t.test("sections of a device's memory are written without touching their neighbours", async (t) => {
  const state = committing();
  t.equal(await readSection(state, "local"), undefined);
  await stageSections(state, { local: tensor("x/theta", 1), residual: tensor("x", 2, 3) });
  await stageSections(state, { theta: tensor("x", 4) });
  t.same(values(await readSection(state, "local")), { "x/theta": [1] });
  t.same(values(await readSection(state, "residual")), { x: [2, 3] });
  t.same(values(await readSection(state, "theta")), { x: [4] });
  await stageSections(state, { residual: "drop", theta: tensor("y", 5) });
  t.equal(await readSection(state, "residual"), undefined);
  t.same(values(await readSection(state, "theta")), { y: [5] }, "a section is replaced as a whole");
  t.same(values(await readSection(state, "local")), { "x/theta": [1] });
});
