// Rows that lanes leave on a disk: which are there, what becomes of a file that cannot be read, who may read it.
import { readdir, readFile, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { rowFiles } from "../../apps/kept-rows.ts";
import { type EncodedTensor, encodeTensor, type KeptRows } from "../../protocols/index.ts";
import { float32 } from "../../runtime/index.ts";

function rowsOf(value: number): KeptRows {
  const row = float32([2], [value, -value]);
  const tensors = new Map<string, EncodedTensor>([
    ["sent/0", encodeTensor(row, "bf16")],
    ["owed/12", encodeTensor(row, "float32")],
  ]);
  // A number that float32 does not hold.
  return { fields: { cutLayer: 1, threshold: 0.1 }, tensors };
}

/** A keeper in a folder that is not there yet. */
function keeperIn(t: Test) {
  const folder = join(t.testdir(), "rows");
  const log: string[] = [];
  const within = <T>(act: () => Promise<T>) => act();
  const keeper = rowFiles({ folder, within, log: (line) => log.push(line) });
  return { folder, log, keeper };
}

t.test("a lane goes on from what the accepted one left, whatever came between", async (t) => {
  const { folder, keeper } = keeperIn(t);
  t.equal(await keeper.read(0), undefined, "nothing was ever left");
  await keeper.write(rowsOf(1), { lane: 1, acceptedLane: 0 });
  await keeper.write(rowsOf(2), { lane: 2, acceptedLane: 1 });
  await keeper.write(rowsOf(3), { lane: 3, acceptedLane: 1 });
  t.same(await keeper.read(1), rowsOf(1));
  t.same(await keeper.read(3), rowsOf(3));
  t.equal(await keeper.read(2), undefined, "nobody goes on from it any more");
  await writeFile(join(folder, "4.safetensors.0123456789ab.new"), "half");
  await keeper.write(rowsOf(4), { lane: 4, acceptedLane: 3 });
  t.same((await readdir(folder)).sort(), ["3.safetensors", "4.safetensors"]);
});

t.test("only their owner may read rows: they are made of private texts", async (t) => {
  const { folder, keeper } = keeperIn(t);
  await keeper.write(rowsOf(1), { lane: 1, acceptedLane: 0 });
  t.equal((await stat(folder)).mode & 0o777, 0o700);
});

t.test("a file that was cut off is as good as none, and the log says so", async (t) => {
  const { folder, log, keeper } = keeperIn(t);
  await keeper.write(rowsOf(1), { lane: 1, acceptedLane: 0 });
  await truncate(join(folder, "1.safetensors"), 20);
  t.equal(await keeper.read(1), undefined);
  t.match(log, [/^begins without kept rows: .*1\.safetensors/]);
  await keeper.write(rowsOf(2), { lane: 2, acceptedLane: 1 });
  t.same(await keeper.read(2), rowsOf(2));
  const text = (await readFile(join(folder, "2.safetensors"))).toString("latin1");
  const spoiled = text.replace('{\\"cutLayer', '[\\"cutLayer');
  t.not(spoiled, text);
  await writeFile(join(folder, "2.safetensors"), spoiled, "latin1");
  t.equal(await keeper.read(2), undefined, "nor does metadata that is no JSON stop a run");
});

t.test("what the disk refuses is said in the words of whose folder it is", async (t) => {
  const folder = join(t.testdir({ rows: "no folder" }), "rows");
  const refused = { message: "the run folder cannot be used" };
  const within = <T>(act: () => Promise<T>) =>
    act().catch((cause: unknown) => {
      throw new Error(refused.message, { cause });
    });
  const keeper = rowFiles({ folder, within, log: () => {} });
  await t.rejects(keeper.read(1), refused);
  await t.rejects(keeper.write(rowsOf(1), { lane: 1, acceptedLane: 0 }), refused);
});
