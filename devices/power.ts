// Power sensors of Jetson boards: an INA3221 that JetPack 5 and later show as hwmon (volts and amperes) and
// JetPack 4 as an iio device (watts). Other boards of the catalogue have no sensor that Linux shows.
import type { Sysroot } from "./sysroot.ts";

/** Power now. */
export interface PowerReading {
  /** The input rail where the board has one, else the sum of its rails. */
  readonly totalWatts: number;
  readonly rails: readonly { readonly name: string; readonly watts: number }[];
}

/** Reads the board's power rails; undefined without a sensor. Takes a few milliseconds: every value is an I2C transfer. */
export async function readPower(sysroot: Sysroot): Promise<PowerReading | undefined> {
  const rails = [...(await hwmonRails(sysroot)), ...(await iioRails(sysroot))];
  if (rails.length === 0) return undefined;
  const input = rails.find(({ name }) => inputRails.has(name));
  return { totalWatts: input?.watts ?? rails.reduce((sum, { watts }) => sum + watts, 0), rails };
}

type Rail = PowerReading["rails"][number];

// What feeds the whole board; the other rails are parts of it.
const inputRails: ReadonlySet<string> = new Set(["VDD_IN", "POM_5V_IN"]);

async function hwmonRails(sysroot: Sysroot): Promise<Rail[]> {
  const rails: Rail[] = [];
  for (const device of await sysroot.glob("/sys/bus/i2c/devices", /./)) {
    for (const hwmon of await sysroot.glob(`${device}/hwmon`, /^hwmon\d+$/)) {
      for (const label of await sysroot.glob(hwmon, /^in\d+_label$/)) {
        const channel = /in(\d+)_label$/.exec(label)?.[1];
        const millivolts = await sysroot.number(`${hwmon}/in${channel}_input`);
        const milliamperes = await sysroot.number(`${hwmon}/curr${channel}_input`);
        // Channel 7 is the sum of the shunt voltages, not a rail.
        if (channel === "7" || millivolts === undefined || milliamperes === undefined) continue;
        addRail(rails, await sysroot.text(label), (millivolts * milliamperes) / 1e6);
      }
    }
  }
  return rails;
}

async function iioRails(sysroot: Sysroot): Promise<Rail[]> {
  const rails: Rail[] = [];
  for (const device of await sysroot.glob("/sys/bus/i2c/devices", /./)) {
    for (const iio of await sysroot.glob(device, /^iio:device\d+$/)) {
      for (const label of await sysroot.glob(iio, /^rail_name_\d+$/)) {
        const channel = /(\d+)$/.exec(label)?.[1];
        const milliwatts = await sysroot.number(`${iio}/in_power${channel}_input`);
        if (milliwatts === undefined) continue;
        addRail(rails, await sysroot.text(label), milliwatts / 1000);
      }
    }
  }
  return rails;
}

function addRail(rails: Rail[], name: string | undefined, watts: number): void {
  // Channels that are not connected are labelled NC.
  if (name === undefined || name === "NC" || watts < 0) return;
  rails.push({ name, watts });
}
