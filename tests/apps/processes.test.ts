// Who lives, where process ids outlive their processes.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import t from "tap";
import { isAlive, startOf } from "../../apps/processes.ts";

t.test("a process lives from its start to its end", async (t) => {
  t.ok(isAlive(process.pid));
  t.equal(startOf(process.pid), startOf(process.pid));
  const child = spawn("sleep", ["60"]);
  const pid = child.pid as number;
  t.ok(isAlive(pid));
  t.not(startOf(pid), startOf(process.pid), "no two are told apart by less than their start");
  child.kill("SIGKILL");
  await once(child, "exit");
  t.notOk(isAlive(pid));
});

t.test("one that has ended lives no more, though nobody asked how it ended", async (t) => {
  // The shell becomes a program that never waits for the child it was left.
  const parent = spawn("sh", ["-c", "sleep 0.01 & echo $!; exec sleep 60"]);
  t.teardown(() => parent.kill("SIGKILL"));
  const [said] = await once(parent.stdout, "data");
  const pid = Number(String(said));
  while (isAlive(pid)) await delay(5);
  t.doesNotThrow(() => process.kill(pid, 0), "its id is still its own");
});
