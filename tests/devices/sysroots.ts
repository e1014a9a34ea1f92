// Roots of real boards for `t.testdir`: what their files say, from public boot logs and reports of the boards.

/** A folder for `t.testdir`. */
export interface Folder {
  [name: string]: string | Folder;
}

/** A folder from "/a/b/c" paths, so that a fixture reads like the board's own files. */
export function rootOf(files: Readonly<Record<string, string>>): Folder {
  const root: Folder = {};
  for (const [path, content] of Object.entries(files)) {
    const names = path.split("/").filter(Boolean);
    let folder = root;
    for (const name of names.slice(0, -1)) {
      const next = folder[name] ?? {};
      if (typeof next === "string") throw new Error(`${path}: ${name} is a file`);
      folder[name] = next;
      folder = next;
    }
    folder[names.at(-1) ?? ""] = content;
  }
  return root;
}

/** `/proc/meminfo` as the kernel writes it. */
export function meminfo(totalKiB: number, availableKiB: number): string {
  return [
    `MemTotal:       ${String(totalKiB).padStart(8)} kB`,
    `MemFree:        ${String(Math.round(availableKiB / 2)).padStart(8)} kB`,
    `MemAvailable:   ${String(availableKiB).padStart(8)} kB`,
    "Buffers:           23964 kB",
    "",
  ].join("\n");
}

/** `/proc/cpuinfo` of an Arm board. */
export function cpuinfo(cores: number, part: string, tail = ""): string {
  const one = (i: number) =>
    `processor\t: ${i}\nBogoMIPS\t: 38.40\nCPU implementer\t: 0x41\nCPU part\t: ${part}\n\n`;
  return Array.from({ length: cores }, (_, i) => one(i)).join("") + tail;
}

/** Files of each board of the catalogue. */
export const boardFiles = {
  "pi-zero-2w": {
    "/proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
    "/proc/device-tree/compatible": "raspberrypi,model-zero-2-w\0brcm,bcm2837\0",
    "/proc/meminfo": meminfo(435_200, 301_244),
    "/proc/cpuinfo": cpuinfo(
      4,
      "0xd03",
      "Hardware\t: BCM2835\nRevision\t: 902120\nModel\t\t: Raspberry Pi Zero 2 W Rev 1.0\n",
    ),
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1000000\n",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "48312\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "/sys/class/net/lo/operstate": "unknown\n",
    "/sys/class/net/wlan0/operstate": "up\n",
    "/sys/class/net/wlan0/wireless/status": "0\n",
  },
  "pi-4": {
    "/proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "/proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "/proc/meminfo": meminfo(3_884_360, 3_412_000),
    "/proc/cpuinfo": cpuinfo(
      4,
      "0xd08",
      "Revision\t: c03115\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n",
    ),
    "/sys/class/thermal/thermal_zone0/temp": "55017\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
  },
  "pi-5": {
    "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "/proc/meminfo": meminfo(8_132_608, 7_600_112),
    "/proc/cpuinfo": cpuinfo(4, "0xd0b", "Revision\t: d04170\n"),
    "/sys/class/net/eth0/operstate": "up\n",
    "/sys/class/net/eth0/speed": "1000\n",
  },
  "jetson-nano": {
    "/proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "/proc/device-tree/compatible":
      "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210\0",
    "/proc/meminfo": meminfo(4_059_252, 2_900_000),
    "/proc/cpuinfo": cpuinfo(4, "0xd07"),
    "/etc/nv_tegra_release":
      "# R32 (release), REVISION: 7.6, GCID: 38171779, BOARD: t210ref, EABI: aarch64, DATE: Tue Nov  5\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/rail_name_0": "POM_5V_IN\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/in_power0_input": "2250\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/rail_name_1": "POM_5V_GPU\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/in_power1_input": "80\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/rail_name_2": "POM_5V_CPU\n",
    "/sys/bus/i2c/devices/6-0040/iio:device0/in_power2_input": "402\n",
  },
  "orin-nano": {
    "/proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0",
    "/proc/device-tree/compatible":
      "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "/proc/meminfo": meminfo(7_802_336, 6_100_000),
    "/proc/cpuinfo": cpuinfo(6, "0xd42"),
    "/etc/nv_tegra_release":
      "# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref, EABI: aarch64, DATE: Sun Mar 19\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label": "VDD_IN\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input": "5080\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input": "1000\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_input": "5072\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr2_input": "120\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in7_label": "sum of shunt voltages\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in7_input": "12\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr7_input": "9999\n",
    "/sys/class/thermal/thermal_zone0/temp": "-256000\n",
    "/sys/class/thermal/thermal_zone1/temp": "51250\n",
    "/sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "/sys/class/thermal/cooling_device0/cur_state": "2\n",
    "/sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "/sys/class/thermal/cooling_device1/cur_state": "0\n",
  },
  "agx-orin": {
    "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "/proc/device-tree/compatible":
      "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "/proc/meminfo": meminfo(64_348_576, 60_000_000),
    "/proc/cpuinfo": cpuinfo(12, "0xd42"),
    "/etc/nv_tegra_release":
      "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon0/in1_label": "VDD_GPU_SOC\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon0/in1_input": "20000\n",
    "/sys/bus/i2c/devices/1-0040/hwmon/hwmon0/curr1_input": "200\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/in1_label": "NC\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/in1_input": "20000\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/curr1_input": "500\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/in2_label": "VIN_SYS_5V0\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/in2_input": "5000\n",
    "/sys/bus/i2c/devices/1-0041/hwmon/hwmon1/curr2_input": "900\n",
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, string>>>>;
