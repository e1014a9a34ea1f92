// What boards are: measured and declared profiles, budgets, a catalogue. Imports nothing of ours.
export { type Accelerator, acceleratorOf } from "./accelerators.ts";
export { type BoardKey, boardKeyOf, boardKeys, boardProfile } from "./boards.ts";
export { DeviceError, type DeviceErrorCode, deviceErrors } from "./errors.ts";
export { type BoardLoad, type LoadMeter, openLoadMeter } from "./load.ts";
export {
  type BoardState,
  type LinkRates,
  type MeasureOptions,
  measureProfile,
  readBoardState,
} from "./measure.ts";
export { type PowerReading, readPower } from "./power.ts";
export {
  type BoardIdentity,
  budgetSchema,
  type DeviceBudget,
  type DeviceProfile,
  type Figure,
  type FigureOrigin,
  type LinkFigures,
  parseBudget,
  parseProfile,
} from "./profile.ts";
export { openSysroot, type Sysroot } from "./sysroot.ts";
export { formatQuantity, parseQuantity, type Unit } from "./units.ts";
