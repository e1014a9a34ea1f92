// A device that waits for a task: what it must not have in memory.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { startBroker } from "../../broker/index.ts";
import { startTrifold } from "./program.ts";

const options = process.platform === "linux" ? {} : { skip: "/proc is Linux's" };

t.test("a device that has measured itself holds no ONNX Runtime", options, async (t) => {
  const folder = t.testdir({ "data.csv": "text,label\na,x\nb,y\n" });
  const broker = await startBroker({ log: () => {} });
  t.teardown(() => broker.close());
  const [data, state] = [join(folder, "data.csv"), join(folder, "state")];
  const flags = { broker: broker.url, id: "idle", data, state };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  const device = startTrifold(["device", ...args]);
  await device.said(/link .* round trip/);
  t.notMatch(readFileSync(`/proc/${device.process.pid}/maps`, "utf8"), /onnxruntime/);
  device.process.kill("SIGINT");
  t.equal((await device.finished).status, 130);
});
