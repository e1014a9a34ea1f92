// What a board could compute with beside its CPU, and what stands in the way. What the engine does offer
// is `DeviceProfile.providers`, which is probed; this is about the hardware.
import type { BoardIdentity } from "./profile.ts";

/** A GPU on the board. */
export interface Accelerator {
  readonly name: string;
  /** CUDA compute capability, such as "8.7". */
  readonly computeCapability: string;
  /** Major release of NVIDIA's JetPack, when the system says. */
  readonly jetpack?: number;
  /** Whether Trifold can run on this system at all; false on JetPack 4. */
  readonly systemFits: boolean;
  /** One sentence for people: what it takes to use it. */
  readonly note: string;
}

/** The GPU of a Jetson, told by its device tree; undefined on boards without one that an engine could use. */
export function acceleratorOf({
  compatible = [],
  release,
}: BoardIdentity): Accelerator | undefined {
  const chip = Object.keys(chips).find((name) => compatible.includes(`nvidia,${name}`));
  const gpu = chip === undefined ? undefined : chips[chip];
  if (!gpu) return undefined;
  const jetpack = jetpackOf(release);
  const systemFits = jetpack !== 4;
  const system = jetpack === undefined ? "its JetPack" : `JetPack ${jetpack}`;
  return {
    ...gpu,
    ...(jetpack === undefined ? {} : { jetpack }),
    systemFits,
    note: systemFits
      ? `The GPU needs an ONNX Runtime binding rebuilt with CUDA for ${system}; the stock one computes on the CPU.`
      : `JetPack 4 (${release}) cannot run Trifold: Node 20 and ONNX Runtime need glibc 2.28 or newer.`,
  };
}

// NVIDIA, "CUDA GPU compute capability", Jetson products.
const chips: Readonly<
  Record<string, { readonly name: string; readonly computeCapability: string }>
> = {
  tegra210: { name: "Maxwell GPU of Tegra X1", computeCapability: "5.3" },
  tegra186: { name: "Pascal GPU of Tegra X2", computeCapability: "6.2" },
  tegra194: { name: "Volta GPU of Xavier", computeCapability: "7.2" },
  tegra234: { name: "Ampere GPU of Orin", computeCapability: "8.7" },
};

/** JetPack's major release from L4T's: 32 is JetPack 4, 35 is 5, 36 is 6, 38 and 39 are 7. */
function jetpackOf(release: string | undefined): number | undefined {
  const l4t = Number(/^L4T (\d+)\./.exec(release ?? "")?.[1]);
  if (l4t >= 38) return 7;
  if (l4t >= 35) return l4t - 30;
  return l4t >= 28 ? 4 : undefined;
}
