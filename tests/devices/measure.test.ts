// Profiles measured from the files of real boards, of limited processes and of machines that talk nonsense.
import t from "tap";
import {
  acceleratorOf,
  boardKeys,
  boardProfile,
  type DeviceProfile,
  measureProfile,
  openSysroot,
  parseProfile,
  readBoardState,
  readPower,
} from "../../devices/index.ts";
import { boardFiles, cpuinfo, meminfo, rootOf } from "./sysroots.ts";

type Files = Readonly<Record<string, string>>;

const KiB = 1024;
const MiB = 2 ** 20;
const measured = (value: number) => ({ value, origin: "measured" });

function measure(test: Tap, files: Files, probes = {}): Promise<DeviceProfile> {
  return measureProfile({ sysroot: test.testdir(rootOf(files)), ...probes });
}

type Tap = { testdir(fixture: ReturnType<typeof rootOf>): string };

t.test("every board of the catalogue is known by its files", async (t) => {
  for (const key of boardKeys) {
    await t.test(key, async (t) => {
      const profile = await measure(t, boardFiles[key]);
      t.equal(profile.board.key, key);
      t.equal(profile.cores.value, boardProfile(key).cores.value);
      t.same(profile.gemmFlopsPerSecond, boardProfile(key).gemmFlopsPerSecond);
      // The catalogue's memory is what such boards report, to the nearest tenth of a GiB.
      const total = profile.memory.totalBytes.value / boardProfile(key).memory.totalBytes.value;
      t.ok(total > 0.97 && total < 1.03, `memory ${total}`);
      t.same(parseProfile(JSON.parse(JSON.stringify(profile))), profile, "survives the wire");
    });
  }
});

t.test("a Pi Zero 2 W's files give this profile", async (t) => {
  t.same(await measure(t, boardFiles["pi-zero-2w"]), {
    board: {
      key: "pi-zero-2w",
      model: "Raspberry Pi Zero 2 W Rev 1.0",
      compatible: ["raspberrypi,model-zero-2-w", "brcm,bcm2837"],
    },
    memory: { totalBytes: measured(435_200 * KiB), availableBytes: measured(301_244 * KiB) },
    cores: measured(4),
    gemmFlopsPerSecond: { value: 6e9, origin: "estimated" },
    link: {
      uplinkBitsPerSecond: { value: 20e6, origin: "estimated" },
      downlinkBitsPerSecond: { value: 20e6, origin: "estimated" },
      roundTripMs: { value: 5, origin: "estimated" },
    },
    power: { activeWatts: { value: 2.1, origin: "declared" } },
    temperatureCelsius: measured(48.312),
    throttled: true,
    providers: ["cpu"],
  });
});

t.test("memory and heat are read alone between rounds, as the profile has them", async (t) => {
  for (const key of boardKeys) {
    const root = t.testdir(rootOf(boardFiles[key]));
    const { memory, temperatureCelsius, throttled } = await measureProfile({ sysroot: root });
    t.same(await readBoardState(root), {
      availableBytes: memory.availableBytes.value,
      ...(temperatureCelsius ? { temperatureCelsius: temperatureCelsius.value } : {}),
      ...(throttled === undefined ? {} : { throttled }),
    });
  }
  t.same(await readBoardState(t.testdir({ empty: {} })), {}, "what cannot be read is absent");
});

t.test(
  "a Raspberry Pi is known by its revision code when the device tree is missing",
  async (t) => {
    for (const key of ["pi-zero-2w", "pi-4", "pi-5"] as const) {
      await t.test(key, async (t) => {
        const { "/proc/device-tree/compatible": _, ...files } = boardFiles[key];
        t.equal((await measure(t, files)).board.key, key);
      });
    }
  },
);

t.test("throttling since boot is not throttling now", async (t) => {
  t.equal((await measure(t, boardFiles["pi-4"])).throttled, false);
});

t.test("a Jetson's fan at work is no throttling, its clock held back is", async (t) => {
  const files = boardFiles["orin-nano"];
  const profile = await measure(t, files);
  t.equal(profile.throttled, false);
  t.same(profile.temperatureCelsius, measured(51.25), "the unpowered sensor is left out");
  await t.test("capped", async (t) => {
    const capped = { ...files, "/sys/class/thermal/cooling_device1/cur_state": "3\n" };
    t.equal((await measure(t, capped)).throttled, true);
  });
});

t.test("an Orin NX, which the catalogue lacks, is no Orin Nano", async (t) => {
  const { board, gemmFlopsPerSecond } = await measure(t, {
    ...boardFiles["orin-nano"],
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0000\0nvidia,tegra234\0",
    "/sys/devices/system/cpu/cpu3/cpufreq/scaling_max_freq": "1984000\n",
  });
  t.equal(board.key, undefined);
  // Two FLOPs a cycle on six cores.
  t.same(gemmFlopsPerSecond, { value: 2 * 6 * 1.984e9, origin: "estimated" });
});

t.test("power is the input rail, or the sum of the rails", async (t) => {
  const watts: Readonly<Partial<Record<string, number>>> = {
    "jetson-nano": 2.25,
    "orin-nano": 5.08,
    "agx-orin": 8.5,
  };
  for (const key of boardKeys) {
    await t.test(key, async (t) => {
      const reading = await readPower(openSysroot(t.testdir(rootOf(boardFiles[key]))));
      t.equal(reading?.totalWatts, watts[key]);
      t.notOk(reading?.rails.some(({ name }) => name === "NC" || name.startsWith("sum")));
    });
  }
});

t.test("probes replace estimates, and power is read before and while they run", async (t) => {
  const files = boardFiles["orin-nano"];
  const root = t.testdir(rootOf(files));
  const current = `${root}/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input`;
  const { writeFile } = await import("node:fs/promises");
  const profile = await measureProfile({
    sysroot: root,
    measureGemm: async () => {
      await writeFile(current, "2500\n");
      return 27e9;
    },
    measureLink: async () => ({
      uplinkBitsPerSecond: 5e6,
      downlinkBitsPerSecond: 50e6,
      roundTripMs: 30,
    }),
    probeProviders: async () => ["cpu", "cuda"],
  });
  t.same(profile.gemmFlopsPerSecond, measured(27e9));
  t.same(profile.link.uplinkBitsPerSecond, measured(5e6));
  t.same(profile.link.roundTripMs, measured(30));
  t.same(profile.providers, ["cpu", "cuda"]);
  t.same(profile.power?.idleWatts, measured(5.08));
  t.equal(profile.power?.activeWatts?.origin, "measured");
  t.ok((profile.power?.activeWatts?.value ?? 0) >= 5.08);
});

t.test("a failing probe fails the profile, and a cancelled one ends it", async (t) => {
  const root = t.testdir(rootOf(boardFiles["orin-nano"]));
  const failing = { sysroot: root, measureGemm: () => Promise.reject(new Error("no engine")) };
  await t.rejects(measureProfile(failing), { message: "no engine" });
  const signal = AbortSignal.abort(new Error("stopped"));
  await t.rejects(measureProfile({ sysroot: root, signal }), { message: "stopped" });
});

const server = {
  "/proc/meminfo": meminfo(8_000_000, 6_000_000),
  "/proc/cpuinfo": cpuinfo(8, "0xd0c"),
};

t.test("version 2 limits count from the process's group up to the root", async (t) => {
  const profile = await measure(t, {
    ...server,
    "/proc/self/cgroup": "0::/system.slice/trifold.service\n",
    "/sys/fs/cgroup/system.slice/memory.max": `${300 * MiB}\n`,
    "/sys/fs/cgroup/system.slice/memory.high": `${256 * MiB}\n`,
    "/sys/fs/cgroup/system.slice/memory.current": `${100 * MiB}\n`,
    "/sys/fs/cgroup/system.slice/memory.stat": `anon 1\ninactive_file ${30 * MiB}\nfile 5\n`,
    "/sys/fs/cgroup/system.slice/trifold.service/memory.max": "max\n",
    "/sys/fs/cgroup/system.slice/trifold.service/cpu.max": "150000 100000\n",
    "/sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
  });
  t.same(profile.memory.limitBytes, measured(256 * MiB));
  t.same(profile.memory.availableBytes, measured(186 * MiB), "dropped cache is free again");
  t.same(profile.cores, measured(1.5));
});

t.test("version 1 limits count too, and the kernel's 'unlimited' is none", async (t) => {
  const files = {
    ...server,
    "/proc/self/cgroup": "4:memory:/jobs/board\n1:cpu,cpuacct:/jobs/board\n0::/\n",
    "/sys/fs/cgroup/memory/jobs/board/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/jobs/board/memory.usage_in_bytes": "1000\n",
    "/sys/fs/cgroup/cpu/jobs/board/cpu.cfs_quota_us": "25000\n",
    "/sys/fs/cgroup/cpu/jobs/board/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
  };
  const free = await measure(t, files);
  t.same(free.memory, { totalBytes: measured(8e6 * KiB), availableBytes: measured(6e6 * KiB) });
  t.same(free.cores, measured(0.25));
  await t.test("limited above", async (t) => {
    const limited = await measure(t, {
      ...files,
      "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": `${512 * MiB}\n`,
      "/sys/fs/cgroup/memory/jobs/memory.usage_in_bytes": `${500 * MiB}\n`,
      "/sys/fs/cgroup/memory/jobs/memory.stat": `total_inactive_file ${88 * MiB}\n`,
    });
    t.same(limited.memory.limitBytes, measured(512 * MiB));
    t.same(limited.memory.availableBytes, measured(100 * MiB));
  });
});

t.test("a group outside a container's own view leaves the limit of its root", async (t) => {
  const { memory } = await measure(t, {
    ...server,
    "/proc/self/cgroup": "7:memory:/../../docker/3f\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": `${64 * MiB}\n`,
    "/sys/fs/cgroup/memory/memory.usage_in_bytes": `${96 * MiB}\n`,
  });
  t.same(memory.limitBytes, measured(64 * MiB));
  t.same(memory.availableBytes, measured(0), "never below nothing");
});

t.test("processors the process may not run on do not count", async (t) => {
  const status = "Name:\tnode\nCpus_allowed:\t0d\nCpus_allowed_list:\t0,2-3\n";
  t.same((await measure(t, { ...server, "/proc/self/status": status })).cores, measured(3));
});

t.test("the interface with the default route gives the link", async (t) => {
  const { link } = await measure(t, {
    ...server,
    "/proc/net/route": "Iface\tDestination\tGateway\neth1\t00000000\t0100000A\neth0\t0000000A\t0\n",
    "/sys/class/net/eth0/speed": "1000\n",
    "/sys/class/net/eth1/speed": "100\n",
  });
  t.same(link.uplinkBitsPerSecond, { value: 94e6, origin: "estimated" });
});

t.test("garbage in optional files is absent from the profile", async (t) => {
  const noise = "\u0000\u0001\ufffd%%% not a number\n";
  const profile = await measure(t, {
    ...server,
    "/proc/device-tree/model": "\u001b[31mBoard\u0007\n\0",
    "/proc/device-tree/compatible": "\0\0",
    "/proc/self/cgroup": `${noise}4:memory\n0::\n::::\n`,
    "/proc/self/status": "Cpus_allowed_list:\t0-\n",
    "/sys/fs/cgroup/memory.max": noise,
    "/sys/fs/cgroup/cpu.max": "0 0\n",
    "/sys/class/thermal/thermal_zone0/temp": noise,
    "/sys/class/thermal/cooling_device0": noise,
    "/sys/devices/platform/soc/soc:firmware/get_throttled": noise,
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "-5\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon0/in1_label": "VDD_IN\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon0/in1_input": noise,
    "/etc/nv_tegra_release": noise,
    "/sys/class/net/eth0/speed": "-1\n",
  });
  t.same(profile, {
    board: { model: "[31mBoard" },
    memory: { totalBytes: measured(8e6 * KiB), availableBytes: measured(6e6 * KiB) },
    cores: measured(8),
    gemmFlopsPerSecond: { value: 16e9, origin: "estimated" },
    link: {
      uplinkBitsPerSecond: { value: 10e6, origin: "estimated" },
      downlinkBitsPerSecond: { value: 10e6, origin: "estimated" },
      roundTripMs: { value: 20, origin: "estimated" },
    },
    providers: ["cpu"],
  });
});

t.test("a root without memory or processors cannot be measured", async (t) => {
  await t.rejects(measure(t, { "/proc/meminfo": "MemTotal: lots\n" }), {
    code: "PROFILE_UNMEASURABLE",
    message: /cannot tell the memory of /,
    hint: /declare a profile/,
  });
  await t.test("processors", async (t) => {
    await t.rejects(measure(t, { "/proc/meminfo": meminfo(1000, 500) }), {
      message: /cannot tell the processors of /,
    });
  });
});

t.test("this machine has a profile", async (t) => {
  const profile = await measureProfile();
  t.ok(profile.memory.totalBytes.value > 0);
  t.ok(profile.cores.value > 0);
  t.same(parseProfile(profile), profile);
});

t.test("a Jetson's GPU is described with what it takes to use it", async (t) => {
  const capability = async (key: keyof typeof boardFiles) => {
    const { board } = await measure(t, boardFiles[key]);
    return acceleratorOf(board);
  };
  t.match(await capability("orin-nano"), {
    computeCapability: "8.7",
    jetpack: 5,
    systemFits: true,
    note: /needs an ONNX Runtime binding rebuilt with CUDA for JetPack 5/,
  });
  t.match(await capability("agx-orin"), { computeCapability: "8.7", jetpack: 7 });
  t.match(await capability("jetson-nano"), {
    computeCapability: "5.3",
    jetpack: 4,
    systemFits: false,
    note: /JetPack 4 \(L4T 32\.7\.6\) cannot run Trifold/,
  });
  t.equal(await capability("pi-5"), undefined);
});
