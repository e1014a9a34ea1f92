// Profiles and budgets from foreign hands, the catalogue, and quantities as people write them.
import t from "tap";
import {
  boardKeys,
  boardProfile,
  deviceErrors,
  formatQuantity,
  parseBudget,
  parseProfile,
  parseQuantity,
} from "../../devices/index.ts";

const declared = (value: number) => ({ value, origin: "declared" });

const handWritten = {
  board: { model: "Field gateway" },
  memory: { totalBytes: "2 GiB", availableBytes: 1_500_000_000 },
  cores: 4,
  gemmFlopsPerSecond: "12 GFLOP/s",
  link: {
    uplinkBitsPerSecond: "2.5 Mbit/s",
    downlinkBitsPerSecond: "10Mbit/s",
    roundTripMs: "0.1 s",
  },
  power: { activeWatts: "6500 mW" },
  providers: ["cpu"],
};

t.test("a profile written by hand counts as declared, units understood", async (t) => {
  const profile = parseProfile(handWritten);
  t.same(profile.memory.totalBytes, declared(2 * 2 ** 30));
  t.same(profile.memory.availableBytes, declared(1.5e9));
  t.same(profile.gemmFlopsPerSecond, declared(12e9));
  t.same(profile.link.uplinkBitsPerSecond, declared(2.5e6));
  t.same(profile.link.roundTripMs, declared(100));
  t.same(profile.power?.activeWatts, declared(6.5));
  t.same(parseProfile(JSON.parse(JSON.stringify(profile))), profile);
});

t.test("a foreign profile that lies is refused with source, field and value", async (t) => {
  const cases: readonly (readonly [object, RegExp])[] = [
    [{ cores: 0 }, /announcement: cores\.value: 0 is no quantity above 0 in cores/],
    [{ cores: { value: Number.NaN, origin: "measured" } }, /cores\.value/],
    [{ cores: { value: 4, origin: "guessed" } }, /cores\.origin/],
    [{ gemmFlopsPerSecond: "12 MB" }, /"12 MB" is no quantity above 0 in FLOP\/s/],
    [{ gemmFlopsPerSecond: 1e300 }, /gemmFlopsPerSecond/],
    [{ memory: { totalBytes: 1 } }, /memory\.availableBytes/],
    [{ board: { model: "a\u001b[2J" } }, /board\.model/],
    [{ board: { model: "x".repeat(201) } }, /board\.model/],
    [{ temperatureCelsius: { value: 900, origin: "measured" } }, /temperatureCelsius\.value/],
    [{ providers: Array(33).fill("cpu") }, /providers/],
    [{ serialNumber: "10000000abcd" }, /serialNumber/],
  ];
  for (const [change, message] of cases) {
    t.throws(
      () => parseProfile({ ...handWritten, ...change }, "announcement"),
      { code: "PROFILE_INVALID", message, hint: /quantity/ },
      JSON.stringify(change),
    );
  }
  for (const input of [undefined, null, 7, "pi-4", []]) {
    t.throws(() => parseProfile(input), { code: "PROFILE_INVALID", message: /\(whole\)/ });
  }
});

t.test("a budget takes numbers and quantities, and leaves out what is not limited", async (t) => {
  t.same(parseBudget({}), {});
  t.same(
    parseBudget({
      trainingMemoryBytes: "48 MB",
      uplinkBytesPerRound: 100_000,
      secondsPerRound: "1.5 min",
      joulesPerRound: "0.01 Wh",
    }),
    {
      trainingMemoryBytes: 48e6,
      uplinkBytesPerRound: 100_000,
      secondsPerRound: 90,
      joulesPerRound: 36,
    },
  );
  t.same(parseBudget({ bytesPerRound: 0 }), { bytesPerRound: 0 }, "nothing may be sent");
});

t.test("a budget with a slip is refused rather than ignored", async (t) => {
  const slips = [
    [{ trainingMemory: "48 MB" }, /device\.yaml: .*trainingMemory/],
    [{ trainingMemoryBytes: "48 Mbit" }, /"48 Mbit" is no quantity 0 or more in B, kB, KiB, MB/],
    [{ secondsPerRound: -1 }, /secondsPerRound: -1/],
    [{ joulesPerRound: null }, /joulesPerRound/],
  ] as const;
  for (const [budget, message] of slips) {
    t.throws(() => parseBudget(budget, "device.yaml"), { code: "BUDGET_INVALID", message });
  }
});

t.test("the catalogue's boards are valid profiles without a measured figure", async (t) => {
  for (const key of boardKeys) {
    const profile = boardProfile(key);
    t.same(parseProfile(profile), profile, key);
    t.notMatch(JSON.stringify(profile), /measured/);
    t.ok(profile.memory.availableBytes.value < profile.memory.totalBytes.value);
  }
  t.same(boardProfile("pi-zero-2w").memory.totalBytes, declared(425 * 2 ** 20));
});

t.test("an unknown board is refused with the names there are", async (t) => {
  for (const key of ["pi-3", "toString", ""]) {
    t.throws(() => boardProfile(key), {
      name: "TrifoldError",
      code: "BOARD_UNKNOWN",
      message: `the catalogue has no board "${key}"`,
      hint: /pi-zero-2w, pi-4, pi-5, jetson-nano, orin-nano, agx-orin/,
    });
  }
});

t.test("an error keeps what led to it", async (t) => {
  const cause = new Error("disk");
  t.equal(deviceErrors.error("PROFILE_INVALID", "text", { cause }).cause, cause);
});

t.test("quantities are read with their unit, and nothing else is", async (t) => {
  t.equal(parseQuantity("1.5 MiB", "bytes"), 1.5 * 2 ** 20);
  t.equal(parseQuantity("  64kb ", "bytes"), 64_000);
  t.equal(parseQuantity("1e6", "bitsPerSecond"), 1e6);
  for (const text of ["", "MB", "1 MB extra", "-1 MB", "1,5 MB", "1 Mbit/s", "Infinity"]) {
    t.equal(parseQuantity(text, "bytes"), undefined, JSON.stringify(text));
  }
});

t.test("figures are printed with three digits and a decimal unit", async (t) => {
  t.equal(formatQuantity(86_200_000, "bytes"), "86.2 MB");
  t.equal(formatQuantity(0, "bytes"), "0 B");
  t.equal(formatQuantity(999, "bytes"), "999 B");
  t.equal(formatQuantity(4_900_000, "bytes"), "4.90 MB");
  t.equal(formatQuantity(27.5e9, "flopsPerSecond"), "27.5 GFLOP/s");
  t.equal(formatQuantity(5400, "seconds"), "5400 s");
  t.equal(formatQuantity(0.25, "seconds"), "250.0 ms");
});
