import { generate } from "mqtt-packet";
import t from "tap";
import { refuseConnect, refusePublish, refuseSubscribe } from "../../broker/index.ts";
// Inside the library: its cuts through packets cannot be arranged over a socket.
import { createPacketGuard } from "../../broker/packet-guard.ts";

const up = "trifold/1/farm/devices/pi-4/up";
const down = "trifold/1/farm/devices/pi-4/down";

t.test("the access rules, as a table", (t) => {
  const device = { clientId: "pi-4" };
  const coordinator = { clientId: "coordinator" };
  const status = "trifold/1/farm/devices/pi-4/status";
  const run = "trifold/1/farm/coordinator/status";
  const other = "trifold/1/farm/devices/pi-5/up";
  const publishing: [boolean, string][] = [
    [true, up],
    [true, status],
    [false, down],
    [false, other],
    [false, run],
    [false, "trifold/2/farm/devices/pi-4/up"],
    [false, "$SYS/broker"],
    [false, "trifold/1/farm/devices/pi-4/up/x"],
  ];
  for (const [isAllowed, topic] of publishing) {
    t.equal(refusePublish(device, topic) === undefined, isAllowed, `publish ${topic}`);
  }
  const reading: [boolean, string][] = [
    [true, down],
    [true, status],
    [true, run],
    [false, up],
    [false, "trifold/1/farm/devices/pi-5/down"],
    [false, "trifold/1/farm/devices/+/status"],
    [false, "trifold/1/+/devices/pi-4/down"],
    [false, "#"],
  ];
  for (const [isAllowed, filter] of reading) {
    t.equal(refuseSubscribe(device, filter) === undefined, isAllowed, `read ${filter}`);
  }
  t.ok([up, down, status, run, other].every((topic) => !refusePublish(coordinator, topic)));
  t.match(refusePublish(coordinator, "home/lights"), /not one of trifold/);
  t.equal(refuseSubscribe(coordinator, "#"), undefined);
  t.equal(refuseConnect(device), undefined);
  t.equal(refuseConnect({ clientId: "a console", username: "coordinator" }), undefined);
  t.match(refuseConnect({ clientId: "pi-5", username: "pi-4" }), /own name/);
  t.match(refuseConnect({ clientId: "coordinator", username: "pi-4" }), /own name/);
  t.match(refuseConnect({ clientId: "a b" }), /not a device id/);
  t.end();
});

t.test("the guard follows packets however they are cut", (t) => {
  const packets = Buffer.concat([
    Buffer.of(0xc0, 0x00),
    generate({
      cmd: "publish",
      topic: "t",
      payload: Buffer.alloc(300),
      qos: 0,
      dup: false,
      retain: false,
    }),
    Buffer.of(0xc0, 0x00),
  ]);
  for (let cut = 1; cut < packets.byteLength; cut += 1) {
    const guard = createPacketGuard(() => 400);
    t.equal(guard.inspect(packets.subarray(0, cut)), undefined);
    t.equal(guard.inspect(packets.subarray(cut)), undefined);
    t.match(guard.inspect(Buffer.of(0x30, 0x91, 0x03)), /exceeds the limit of 400/);
  }
  const endless = createPacketGuard(() => Number.POSITIVE_INFINITY);
  t.match(endless.inspect(Buffer.of(0x30, 0xff, 0xff, 0xff, 0xff)), /more than four/);
  t.end();
});
