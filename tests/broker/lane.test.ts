import t from "tap";
import { createLaneInbox, createRoundLink, type Link } from "../../broker/index.ts";
import type { Payload } from "../../protocols/index.ts";
import { TrifoldError } from "../../runtime/index.ts";
import { deviceId, federation, join, settle } from "./peers.ts";

const place = { round: 2, attempt: 2, lane: 7 };

t.test("a lane's messages are processed once and in order", async (t) => {
  const inbox = createLaneInbox(deviceId);
  inbox.open(place);
  const processed: string[] = [];
  const { device } = await join(t, (request) =>
    inbox.accept(request, async (up) => {
      await settle(1);
      processed.push(up.kind);
      return up.kind === "last" ? undefined : { ...up, kind: `${up.kind} answered` };
    }),
  );
  const link = roundLink(device);
  const [first, second] = await Promise.all([
    link.ask(payload("one", { loss: 0.25 })),
    link.ask(payload("two")),
    link.send(payload("last")),
  ]);
  t.strictSame(processed, ["one", "two", "last"]);
  t.strictSame(
    [first.kind, first.fields, second.kind],
    ["one answered", { loss: 0.25 }, "two answered"],
  );
  await t.rejects(link.ask(payload("last")), { message: /gave no answer/ });
});

t.test("a message that overtook another waits for it", async (t) => {
  const inbox = createLaneInbox(deviceId);
  inbox.open(place);
  const order: number[] = [];
  const process = async (_up: Payload, laneSequence: number) => {
    order.push(laneSequence);
    return undefined;
  };
  const third = inbox.accept(laneMessage(3), process);
  const second = inbox.accept(laneMessage(2), process);
  await settle();
  t.strictSame(order, [], "nothing before the first");
  await Promise.all([inbox.accept(laneMessage(1), process), second, third]);
  t.strictSame(order, [1, 2, 3]);
});

t.test("a repeat gets the stored answer, also after a restart; a lost one says so", async (t) => {
  const inbox = createLaneInbox(deviceId);
  const answers = new Map([[5, payload("kept")]]);
  inbox.open(place, { lastSequence: 5, answers });
  const never = () => Promise.reject(new Error("processed again"));
  const reply = await inbox.accept(laneMessage(5), never);
  t.match(reply.fields, { payload: { kind: "kept" } });
  await t.rejects(inbox.accept(laneMessage(4), never), { code: "LANE_ANSWER_LOST" });
  const once = await inbox.accept(laneMessage(6), async () => payload("new"));
  t.equal(await inbox.accept(laneMessage(6), never), once);
  t.strictSame(inbox.counters(), { repeats: 2, stale: 0 });
});

t.test("a failed message fails alike when repeated, and the lane goes on", async (t) => {
  const inbox = createLaneInbox(deviceId);
  inbox.open(place);
  const bad = () => Promise.reject(new TrifoldError("PROTOCOL_PAYLOAD_INVALID", "shape"));
  await t.rejects(inbox.accept(laneMessage(1), bad), { code: "PROTOCOL_PAYLOAD_INVALID" });
  const ok = async () => undefined;
  await t.rejects(inbox.accept(laneMessage(1), ok), { code: "PROTOCOL_PAYLOAD_INVALID" });
  t.match(await inbox.accept(laneMessage(2), ok), { kind: "lane" });
});

t.test("messages of any other lane are stale", async (t) => {
  const inbox = createLaneInbox(deviceId);
  const process = async () => undefined;
  const stale = { code: "LANE_STALE" };
  await t.rejects(inbox.accept(laneMessage(1), process), stale, "none is open");
  inbox.open(place);
  await t.rejects(inbox.accept({ ...laneMessage(1), lane: 6 }, process), stale);
  await t.rejects(inbox.accept({ ...laneMessage(1), attempt: 1 }, process), stale);
  const waiting = t.rejects(inbox.accept(laneMessage(2), process), stale, "its turn never came");
  inbox.open({ ...place, lane: 8 });
  await waiting;
  const first = inbox.accept(laneMessage(1), process);
  await t.rejects(first, { ...stale, message: /lane 7 .* current one is lane 8/ });
  inbox.close();
  t.equal(inbox.counters().stale, 5);
});

t.test("a lane message out of form or far ahead is refused", async (t) => {
  const inbox = createLaneInbox(deviceId);
  inbox.open(place);
  const process = async () => undefined;
  const code = "ENVELOPE_INVALID";
  await t.rejects(inbox.accept(laneMessage(0), process), { code });
  await t.rejects(inbox.accept(laneMessage(1000), process), { code, message: /far ahead/ });
  await t.rejects(inbox.accept({ ...laneMessage(1), kind: "join" }, process), { code });
});

function payload(kind: string, fields: Record<string, unknown> = {}): Payload {
  return { kind, fields, tensors: new Map() };
}

function laneMessage(laneSequence: number) {
  const bodies = { tensors: new Map(), blobs: new Map() };
  const who = { federation, task: "", sender: deviceId, instance: "0".repeat(16), sequence: 1 };
  const fields = { laneSequence, payload: { kind: "x", fields: {} } };
  return { ...place, ...who, ...bodies, kind: "lane", fields };
}

function roundLink(link: Link) {
  const { signal } = new AbortController();
  return createRoundLink({ link, task: "sotu", place, signal, parseDown: (down) => down });
}
