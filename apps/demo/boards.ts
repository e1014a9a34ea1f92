// The demo's four boards: the catalogue's figures and the budgets a person would set beside the board's
// other work. The framework each one gets follows from these numbers, not from the names.
import { boardProfile, type DeviceBudget, type DeviceProfile } from "../../devices/index.ts";

/** A board that the demo plays. */
export interface DemoBoard {
  readonly id: string;
  readonly profile: DeviceProfile;
  readonly budget: DeviceBudget;
  /** What the budget stands for. */
  readonly story: string;
}

const megabyte = 1e6;

/** The four boards; their ids are the devices'. */
export const demoBoards: readonly DemoBoard[] = [
  {
    id: "orin-nano",
    profile: boardProfile("orin-nano"),
    budget: { trainingMemoryBytes: 1000 * megabyte, secondsPerRound: 120, joulesPerRound: 1500 },
    story: "a robot's computer: plenty of memory, on Ethernet",
  },
  {
    id: "pi-4",
    profile: boardProfile("pi-4"),
    budget: {
      trainingMemoryBytes: 600 * megabyte,
      uplinkBytesPerRound: 0.016 * megabyte,
      secondsPerRound: 120,
    },
    story: "a gateway in the field: its uplink is metered",
  },
  {
    id: "pi-5",
    profile: boardProfile("pi-5"),
    budget: { trainingMemoryBytes: 800 * megabyte, secondsPerRound: 120, joulesPerRound: 1500 },
    story: "a home server: shares its memory with other services",
  },
  {
    id: "pi-zero-2w",
    profile: boardProfile("pi-zero-2w"),
    budget: { trainingMemoryBytes: 150 * megabyte, secondsPerRound: 120 },
    story: "a sensor node: little memory is left for training",
  },
];
