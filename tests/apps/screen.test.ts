// The demo's screen: what it shows after what, at any width, and what it leaves on the terminal.
import { PassThrough } from "node:stream";
import t from "tap";
import type { RunEvent } from "../../apps/coordinator/events.ts";
import { createScreen } from "../../apps/demo/screen.ts";
import {
  emptyScreen,
  type ScreenInput,
  screenAfter,
  screenLines,
} from "../../apps/demo/screen-state.ts";
import { wrapText } from "../../apps/wrapped-text.ts";
import type { Selection } from "../../protocols/index.ts";

const report: Extract<RunEvent, { kind: "reported" }>["report"] = {
  ...{ examples: 10, examplesSeen: 20, steps: 2, loss: 0.3737, flops: 1, trainSeconds: 10.38 },
  ...{ peakMemoryBytes: 1, idleMemoryBytes: 1, provisioningBytes: 0, repeatedBytes: 0 },
  ...{ uplinkBytes: 27_136, downlinkBytes: 1, rawUplinkBytes: 1, rawDownlinkBytes: 1 },
};

t.test("a board's row follows it from joining to its report", async (t) => {
  const row = (...inputs: readonly ScreenInput[]) => linesAfter(inputs).at(-1);
  const deviceId = "pi-4";
  const story: ScreenInput[] = [{ kind: "joining", deviceId }];
  t.match(row(...story), /^ {2}pi-4 +joining$/);
  story.push(assigned(deviceId));
  t.match(row(...story), /^ {2}pi-4 {2}kd {5}ready +Raspberry Pi 4$/);
  story.push({ kind: "started", deviceId, lane: 1, protocol: "kd" });
  t.match(row(...story), /kd +training, 5 s +Raspberry Pi 4$/);
  story.push({ kind: "progress", deviceId, messages: 12 });
  t.match(row(...story), /kd +training, 12 messages, 5 s +Rasp/);
  story.push({ kind: "reported", deviceId, report });
  t.match(row(...story), /kd +loss 0\.374, 10\.4 s, 27\.1 kB up +Rasp/);
  t.match(row(...story, { kind: "lost", deviceId, reason: "" }), /left out of this round/);
  t.match(row(...story, { kind: "gone", deviceId }), /gone/);
  story.push({ kind: "closed", round: 3, accepted: [deviceId], seconds: 1 });
  story.push({ kind: "scored", round: 3, accuracy: 0.5 }, { kind: "gone", deviceId });
  t.match(row(...story), /kd +loss 0\.374/, "it leaves after the last of the three rounds");
});

t.test("boards stand in id order, whichever came first", async (t) => {
  const rows = ["b", "c", "a"].map((deviceId) => ({ kind: "joining", deviceId }) as const);
  t.same(
    linesAfter(rows)
      .slice(1)
      .map((line) => line.trim().at(0)),
    ["a", "b", "c"],
  );
});

t.test("the head shows the time, the stage, the round and every accuracy so far", async (t) => {
  const closed = { kind: "closed", accepted: ["a"], seconds: 1 } as const;
  const inputs: ScreenInput[] = [{ kind: "stage", text: "starting 4 boards" }];
  t.same(linesAfter(inputs), ["0:05  starting 4 boards"]);
  inputs.push(
    { kind: "waiting", ready: 1, needed: 4 },
    { kind: "round", round: 1, attempt: 1, rounds: 3 },
    { ...closed, round: 1 },
    { kind: "round", round: 2, attempt: 1, rounds: 3 },
  );
  t.same(linesAfter(inputs), ["0:05  training", "round 2 of 3   accuracy  -"]);
  inputs.push({ kind: "scored", round: 1, accuracy: 0.5 });
  t.same(linesAfter(inputs), ["0:05  training", "round 2 of 3   accuracy  0.500"]);
  inputs.push(
    { ...closed, round: 2 },
    { kind: "scored", round: 2, accuracy: 0.75 },
    { kind: "finished", accuracy: 0.75 },
  );
  t.same(linesAfter(inputs), ["0:05  finished", "round 2 of 3   accuracy  0.500  0.750"]);
});

t.test("each baseline has a bar that fills", async (t) => {
  const [, half, whole] = linesAfter([
    { kind: "baseline", name: "centralised", step: 50, steps: 100 },
    { kind: "baseline", name: "randomBase", step: 1, steps: 100 },
    { kind: "baseline", name: "randomBase", step: 100, steps: 100 },
  ]);
  t.match(half, /centralised +\[#{12}\.{12}\] {2}50 of 100 steps/);
  t.match(whole, /randomBase +\[#{24}\] {2}100 of 100 steps/);
});

t.test("no line is longer than the terminal is wide", async (t) => {
  const inputs: ScreenInput[] = [
    { kind: "stage", text: "a stage that takes longer to tell than a narrow terminal is wide" },
    assigned("a-board-with-a-name-that-goes-on-and-on-and-on"),
    { kind: "baseline", name: "device a-board-with-a-name-that-goes-on", step: 1, steps: 3 },
  ];
  for (const columns of [20, 79, 119]) {
    const lines = linesAfter(inputs, columns);
    t.ok(
      lines.every((line) => line.length <= columns),
      lines.join("\n"),
    );
  }
  t.match(linesAfter(inputs, 40)[0], /^0:05 {2}a stage that takes.*…$/);
});

t.test("long texts break between words and hang under their first line", async (t) => {
  const text = "a: one two three\n  full needs 30 kB of 20 kB";
  t.equal(wrapText(text, 12), "a: one two\n  three\n  full needs\n    30 kB of\n    20 kB");
  t.equal(wrapText(text, 80), text);
  t.equal(wrapText("averyveryverylongword b", 10), "averyveryverylongword\n  b");
  // A device's error text must not move the cursor.
  t.equal(wrapText("a\u001b[2Jb\tc", 80), "a [2Jb c");
});

t.test("a terminal keeps what was decided, above the block, and shows the cursor", async (t) => {
  const { stream, written } = terminal(60);
  const screen = createScreen(stream, 3);
  screen.stage("starting boards");
  screen.event(assigned("pi-4"));
  screen.log("a note");
  screen.close();
  screen.close();
  const painted = written();
  screen.stage("too late");
  t.equal(written(), painted, "nothing is painted after the end");
  t.ok(painted.includes("pi-4 (Raspberry Pi 4): kd: full needs 33.3 kB of 16.0 kB\n"), painted);
  t.ok(painted.includes("a note\n"));
  t.ok(painted.endsWith("\n\u001b[?2026l") || painted.endsWith("\n"), JSON.stringify(painted));
  // DECTCEM off, which only a matching "on" would undo.
  t.notOk(painted.includes("\u001b[?25l"));
});

t.test("elsewhere each event is one plain line", async (t) => {
  const { stream, written } = terminal(60, { isTTY: false });
  const screen = createScreen(stream, 3);
  screen.stage("starting boards");
  screen.event({ kind: "progress", deviceId: "a", messages: 3 });
  screen.event({ kind: "gone", deviceId: "a" });
  screen.baseline({ name: "centralised", step: 1, steps: 2 });
  screen.baseline({ name: "centralised", step: 2, steps: 2 });
  screen.close();
  t.equal(written(), "starting boards\na is gone\nbaseline centralised: 2 steps\n");
});

/** The lines five seconds after everything happened at once. */
function linesAfter(inputs: readonly ScreenInput[], columns = 200): string[] {
  const state = inputs.reduce(
    (screen, input) => screenAfter(screen, input, 1000),
    emptyScreen(3, 1000),
  );
  return screenLines(state, { columns, nowMs: 6000 });
}

function assigned(deviceId: string): Extract<RunEvent, { kind: "assigned" }> {
  const reason = "kd: full needs 33.3 kB of 16.0 kB uplink a round";
  const assignment = { deviceId, protocol: "kd", protocolVersion: 1, reason };
  const selection: Selection = { assignment, table: [] };
  return { kind: "assigned", deviceId, board: "Raspberry Pi 4", selection };
}

/** A stream as a terminal of that width, and what was written to it. */
function terminal(columns: number, { isTTY = true } = {}) {
  const stream = new PassThrough({ encoding: "utf8" });
  let text = "";
  stream.on("data", (chunk: string) => {
    text += chunk;
  });
  const facts = { isTTY, columns, rows: 24 };
  return {
    stream: Object.assign(stream, facts) as unknown as NodeJS.WriteStream,
    written: () => text,
  };
}
