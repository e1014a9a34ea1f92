// Codes of the device program.
import { defineErrors } from "../../runtime/index.ts";

/** Codes of `apps/device`. */
export const deviceProgramErrors = defineErrors({
  DEVICE_CONFIG_INVALID: "The device's configuration file is not YAML or holds a wrong field.",
  DEVICE_MODEL_MISSING: "The task's base model is not on this device.",
  DEVICE_DATA_TOO_SMALL: "The device has too few examples to train and to hold some out.",
  DEVICE_PUBLIC_SET_INVALID: "The public set that came is not the one the task announces.",
  DEVICE_PROBE_FAILED: "The device could not measure itself.",
  DEVICE_PROVISION_INVALID:
    "The parts of the model that came are not those that the task announces.",
  DEVICE_STORE_FULL: "The device's disk has no room for the parts of the model that it needs.",
  DEVICE_REQUEST_UNKNOWN: "The coordinator asked for something this device does not know.",
  DEVICE_TASK_MISSING: "The coordinator asked for work before it announced a task.",
  DEVICE_STATE_UNUSABLE: "The device's state folder cannot be read or written.",
});
