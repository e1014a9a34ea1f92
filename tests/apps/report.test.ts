// What a run's journal amounts to, and the page that shows it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import type { DeviceRoundReport } from "../../apps/control-messages.ts";
import type { JournalRecord } from "../../apps/coordinator/journal.ts";
import { openRunFolder } from "../../apps/coordinator/run-folder.ts";
import { reportPage } from "../../apps/report/html.ts";
import { type RunReport, runReport } from "../../apps/report/run-report.ts";
import { boardProfile } from "../../devices/index.ts";
import { type RoundCost, type Task, taskSchema } from "../../protocols/index.ts";

const task: Task = {
  ...taskSchema.parse({ name: "sample", head: { kind: "classification", labels: ["a", "b"] } }),
  manifest: {
    modelSha256: "0".repeat(64),
    tokenizerSha256: "1".repeat(64),
    config: {
      ...{ family: "gpt2", vocabSize: 64, positions: 32, hiddenSize: 32, layers: 4, heads: 4 },
      ...{ innerSize: 64, layerNormEpsilon: 1e-5, padTokenId: 0 },
    },
  },
};
const estimate: RoundCost = {
  peakMemoryBytes: 8e6,
  uplinkBytes: 1000,
  downlinkBytes: 2000,
  flops: 4e9,
  roundTrips: 2,
};

t.test("only accepted lanes count, summed over rounds", async (t) => {
  const { devices, rounds, accuracy } = runReport(
    [
      { kind: "round", round: 1, attempt: 1 },
      lane("a", 1, 1),
      report("a", 1, { uplinkBytes: 100_000 }),
      // Lane 1 was given up; lane 2 is the one that was folded in.
      lane("a", 1, 2),
      report("a", 2, { uplinkBytes: 900, flops: 4e9, peakMemoryBytes: 9e6, accuracy: 0.5 }),
      ...closed(1, { a: 2 }, 0.6),
      { kind: "round", round: 2, attempt: 1 },
      lane("a", 2, 3),
      report("a", 3, { uplinkBytes: 1100, flops: 4e9, peakMemoryBytes: 7e6, accuracy: 0.75 }),
      lane("late", 2, 1),
      ...closed(2, { a: 3 }, 0.8),
    ],
    task,
  );
  t.same(
    devices.map(({ id }) => id),
    ["a"],
  );
  t.match(devices[0], {
    board: "Board of a",
    rounds: 2,
    uplinkBytes: 2000,
    flops: 8e9,
    peakMemoryBytes: 9e6,
    accuracy: 0.75,
    estimate,
  });
  t.same(
    rounds.map((round) => round.accuracy),
    [0.6, 0.8],
  );
  t.equal(accuracy, 0.8);
});

t.test("the page shows each figure and what it is to be compared with", async (t) => {
  const page = reportPage(sample());
  const shown = [
    ...["Board of pi", "80.0 %", "centralised <b>90.0 %</b>", "The boards are emulated"],
    // Sent 900 B where float32 takes 3600; measured 10 MB where 8 MB were estimated: a quarter more.
    ...["900 B<small>of 3.60 kB</small>", "10.0 MB<small>estimated 8.00 MB</small>", "(+25 %)"],
    ...["needs 3.60 kB of 1.00 kB uplink a round", "training.learningRate"],
  ];
  for (const text of shown) t.ok(page.includes(text), text);
});

t.test("nothing that a device or a person writes becomes markup", async (t) => {
  const evil = `<script>alert("1")</script>'&`;
  const hostile = { ...sample(), task: { ...task, name: evil }, notes: [evil], machine: evil };
  const [device] = hostile.devices;
  const page = reportPage({
    ...hostile,
    devices: [
      { ...device, id: evil, board: evil, reason: evil, framework: evil },
    ] as RunReport["devices"],
    baselines: [{ name: evil, accuracy: 0.5 }],
  });
  t.notOk(page.includes("<script"));
  t.notOk(page.includes(`"1"`));
  t.ok(page.includes("&#60;script&#62;alert(&#34;1&#34;)&#60;/script&#62;&#39;&#38;"));
});

t.test("the page loads nothing and runs nothing", async (t) => {
  const page = reportPage(sample());
  t.notMatch(page, /<(script|link|img|iframe|object|embed)\b|\bon\w+=|url\(|@import|https?:/i);
  t.match(page, /Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/);
});

t.test("runs without rounds, with many, and with odd figures still make sound pages", async (t) => {
  const odd = sample();
  const rounds = Array.from({ length: 40 }, (_, i) => ({
    round: i + 1,
    devices: ["pi"],
    accuracy: 0.02 * i,
    seconds: 0,
    scoringSeconds: 0,
  }));
  const nothing = {
    uplinkBytes: 0,
    rawUplinkBytes: 0,
    flops: 0,
    peakMemoryBytes: -4096,
    rounds: 0,
  };
  const devices = odd.devices.map((device) => ({ ...device, ...nothing }));
  const { baselines: _, ...plain } = odd;
  const cases: readonly RunReport[] = [
    runReport([], task),
    { ...plain, devices: [] },
    { ...odd, rounds, devices },
    { ...odd, baselines: Array.from({ length: 6 }, () => ({ name: "same", accuracy: 0 })) },
  ];
  for (const report of cases) {
    const page = reportPage(report);
    t.notMatch(page, /NaN|Infinity|undefined|\[object/);
    t.notMatch(page, /(width|height)="-/);
    t.same(unbalanced(page), []);
  }
});

t.test("the run folder keeps the profile and budget of every device it has had", async (t) => {
  const folder = t.testdir();
  const device = (id: string, uplinkBytesPerRound: number) => {
    return { id, profile: boardProfile("pi-4"), budget: { uplinkBytesPerRound } };
  };
  const first = await openRunFolder(folder, task);
  await first.saveProfiles([device("b", 1), device("a", 1)]);
  await first.close();
  const again = await openRunFolder(folder, task);
  await again.saveProfiles([device("b", 2)]);
  await again.close();
  const saved = JSON.parse(await readFile(join(folder, "profiles.json"), "utf8"));
  t.same(Object.keys(saved), ["a", "b"]);
  t.same(saved.a, { profile: boardProfile("pi-4"), budget: { uplinkBytesPerRound: 1 } });
  t.equal(saved.b.budget.uplinkBytesPerRound, 2);
});

/** One device, one round: sent a quarter of the raw bytes, took a quarter more memory than estimated. */
function sample(): RunReport {
  const measured = { uplinkBytes: 900, rawUplinkBytes: 3600, peakMemoryBytes: 10e6 };
  return runReport(
    [
      { kind: "round", round: 1, attempt: 1 },
      lane("pi", 1, 1),
      report("pi", 1, { ...measured, accuracy: 0.5 }),
      ...closed(1, { pi: 1 }, 0.8),
    ],
    task,
    {
      baselines: [{ name: "centralised", accuracy: 0.9 }],
      notes: ["The boards are emulated."],
    },
  );
}

function lane(deviceId: string, round: number, number: number): JournalRecord {
  const reason = "kd: full needs 3.60 kB of 1.00 kB uplink a round";
  return {
    ...{ kind: "lane", round, attempt: 1, lane: number, deviceId, resumable: true },
    ...{ board: `Board of ${deviceId}`, estimate },
    assignment: { deviceId, protocol: "kd", protocolVersion: 1, reason },
  };
}

function report(
  deviceId: string,
  number: number,
  figures: Partial<DeviceRoundReport>,
): JournalRecord {
  const counts = { examples: 10, examplesSeen: 20, steps: 2, loss: 1, flops: 4e9, trainSeconds: 3 };
  const memory = { peakMemoryBytes: 1e6, idleMemoryBytes: 1e6 };
  const bytes = {
    ...{ uplinkBytes: 1, downlinkBytes: 2, rawUplinkBytes: 3, rawDownlinkBytes: 4 },
    ...{ provisioningBytes: 0, repeatedBytes: 0 },
  };
  const all = { ...counts, ...memory, ...bytes, ...figures };
  return { kind: "report", deviceId, lane: number, report: all };
}

function closed(
  round: number,
  accepted: Readonly<Record<string, number>>,
  accuracy: number,
): readonly JournalRecord[] {
  return [
    { kind: "closed", round, attempt: 1, accepted, seconds: 10 },
    { kind: "scored", round, accuracy, scoringSeconds: 1 },
  ];
}

/** Tags that are closed in the wrong order or never; void elements and `<tag/>` need not be. */
function unbalanced(page: string): string[] {
  const open: string[] = [];
  const wrong: string[] = [];
  for (const [, end, name = "", self] of page.matchAll(/<(\/?)([a-z]\w*)[^>]*?(\/?)>/g)) {
    if (self || name === "meta") continue;
    if (!end) open.push(name);
    else if (open.pop() !== name) wrong.push(name);
  }
  return [...wrong, ...open];
}
