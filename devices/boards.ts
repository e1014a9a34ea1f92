// The catalogue: figures of real boards for planning, for virtual boards and for what a probe cannot read. Sources:
// geerlingguy/top500-benchmark (HPL, watts), ThomasKaiser/sbc-bench, geerlingguy/sbc-reviews #21 and #98,
// zzc0721/torch-performance-test-data #110, vendors' data sheets. HPL is float64; float32 is about twice that on Arm cores.
import { deviceErrors } from "./errors.ts";
import type { DeviceProfile, Figure } from "./profile.ts";

/** Keys of the catalogue, from the smallest board to the largest. */
export const boardKeys = [
  "pi-zero-2w",
  "pi-4",
  "pi-5",
  "jetson-nano",
  "orin-nano",
  "agx-orin",
] as const;

/** Key of a board in the catalogue. */
export type BoardKey = (typeof boardKeys)[number];

/** The profile of a catalogue board with its usual system and link, idle. Throws `BOARD_UNKNOWN` listing the keys there are. */
export function boardProfile(key: string): DeviceProfile {
  if (!isBoardKey(key)) {
    throw deviceErrors.error("BOARD_UNKNOWN", `the catalogue has no board "${key}"`, {
      hint: `Boards: ${boardKeys.join(", ")}.`,
    });
  }
  const { model, compatible, memoryBytes, cores, gemm, link, activeWatts } = boards[key];
  return {
    board: { key, model, compatible },
    memory: {
      totalBytes: declared(memoryBytes),
      availableBytes: estimated(memoryBytes - systemBytes(memoryBytes)),
    },
    cores: declared(cores),
    gemmFlopsPerSecond: gemm,
    link: {
      uplinkBitsPerSecond: declared(link.bitsPerSecond),
      downlinkBitsPerSecond: declared(link.bitsPerSecond),
      roundTripMs: estimated(link.roundTripMs),
    },
    power: { activeWatts: declared(activeWatts) },
    providers: ["cpu"],
  };
}

/** The catalogue's board with this `compatible` list or Raspberry Pi revision code, if any. */
export function boardKeyOf(compatible: readonly string[], revision?: string): BoardKey | undefined {
  const piType = revision === undefined ? undefined : piTypeOf(revision);
  return boardKeys.find((key) => {
    const { matches, type } = boards[key];
    return compatible.some((name) => matches.test(name)) || (type !== undefined && type === piType);
  });
}

function isBoardKey(key: string): key is BoardKey {
  return (boardKeys as readonly string[]).includes(key);
}

interface BoardFacts {
  readonly model: string;
  readonly compatible: readonly string[];
  /** Recognises the board among `compatible` names, all its hardware revisions. */
  readonly matches: RegExp;
  /** Bits 4-11 of a Raspberry Pi's revision code. */
  readonly type?: number;
  /** What the operating system sees, after what firmware and GPU keep. */
  readonly memoryBytes: number;
  readonly cores: number;
  /** float32 on the CPU: the stock engine has no GPU provider for these boards. */
  readonly gemm: Figure;
  readonly link: { readonly bitsPerSecond: number; readonly roundTripMs: number };
  /** Whole board under full load, in its highest power mode. */
  readonly activeWatts: number;
}

const mebibyte = 2 ** 20;
// 940 Mbit/s of TCP fit a gigabit wire; round trips are orders of magnitude, not measurements.
const gigabitEthernet = { bitsPerSecond: 940e6, roundTripMs: 0.5 };

const boards: { readonly [K in BoardKey]: BoardFacts } = {
  "pi-zero-2w": {
    model: "Raspberry Pi Zero 2 W",
    compatible: ["raspberrypi,model-zero-2-w", "brcm,bcm2837"],
    matches: /^raspberrypi,model-zero-2/,
    type: 0x12,
    memoryBytes: 425 * mebibyte,
    cores: 4,
    // 4-8 GFLOP/s from NEON width and clock; HPL 0.37 is bound by memory.
    gemm: estimated(6e9),
    // The lower end of 20-40 Mbit/s on 2.4 GHz WiFi.
    link: { bitsPerSecond: 20e6, roundTripMs: 5 },
    activeWatts: 2.1,
  },
  "pi-4": {
    model: "Raspberry Pi 4 Model B",
    compatible: ["raspberrypi,4-model-b", "brcm,bcm2711"],
    matches: /^raspberrypi,4-model-b/,
    type: 0x11,
    memoryBytes: Math.round(3.8 * 1024) * mebibyte,
    cores: 4,
    // Twice HPL 11.9.
    gemm: estimated(24e9),
    // On WiFi, as boards in the field are; its Ethernet is gigabit.
    link: { bitsPerSecond: 90e6, roundTripMs: 3 },
    activeWatts: 7.2,
  },
  "pi-5": {
    model: "Raspberry Pi 5 Model B",
    compatible: ["raspberrypi,5-model-b", "brcm,bcm2712"],
    matches: /^raspberrypi,5-model-b/,
    type: 0x17,
    memoryBytes: 7942 * mebibyte,
    cores: 4,
    // Twice HPL 30.2.
    gemm: estimated(60e9),
    link: gigabitEthernet,
    activeWatts: 11,
  },
  "jetson-nano": {
    model: "NVIDIA Jetson Nano Developer Kit",
    compatible: ["nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"],
    matches: /^nvidia,(jetson-nano|p3450-|.*p3448-)/,
    memoryBytes: Math.round(3.9 * 1024) * mebibyte,
    cores: 4,
    gemm: estimated(20e9),
    link: gigabitEthernet,
    activeWatts: 10,
  },
  "orin-nano": {
    model: "NVIDIA Orin Nano Developer Kit",
    compatible: ["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"],
    // Modules 0003 and 0005 have 8 GB; 0000 and 0001 are Orin NX.
    matches: /^nvidia,.*p3767-000[35]/,
    memoryBytes: Math.round(7.4 * 1024) * mebibyte,
    cores: 6,
    // The middle of 26-29 GFLOP/s on the CPU.
    gemm: declared(27.5e9),
    link: gigabitEthernet,
    activeWatts: 15,
  },
  "agx-orin": {
    model: "NVIDIA Jetson AGX Orin Developer Kit",
    compatible: ["nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"],
    matches: /^nvidia,.*p3701-/,
    memoryBytes: 61 * 1024 * mebibyte,
    cores: 12,
    // The Orin Nano's rate by cores (12 of 6) and clock (2.2 of 1.5 GHz).
    gemm: estimated(80e9),
    link: { bitsPerSecond: 9.4e9, roundTripMs: 0.5 },
    activeWatts: 60,
  },
};

/** Memory that an idle system keeps: a small one without a desktop about 128 MiB, larger ones about an eighth. */
function systemBytes(memoryBytes: number): number {
  return Math.max(128 * mebibyte, Math.round(memoryBytes / 8));
}

/** Board type of a new-style revision code (bit 23 set), per Raspberry Pi's documentation "Revision codes". */
function piTypeOf(revision: string): number | undefined {
  if (!/^[0-9a-f]{6,8}$/i.test(revision)) return undefined;
  const code = Number.parseInt(revision, 16);
  return (code & (1 << 23)) !== 0 ? (code >> 4) & 0xff : undefined;
}

function declared(value: number): Figure {
  return { value, origin: "declared" };
}

function estimated(value: number): Figure {
  return { value, origin: "estimated" };
}
