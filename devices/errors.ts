// The error of `devices/`: the same shape as `TrifoldError` of `runtime/` (`code`, `hint`, `cause`), declared here
// again because this folder imports nothing of ours. Programs tell errors apart by `code`, not by class.

/** An error with a catalogue code, a text for the operator and a hint what to do. */
export class DeviceError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor(code: string, message: string, options: DeviceFailure = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "TrifoldError";
    this.code = code;
    this.hint = options.hint;
  }
}

/** What an error may carry beside its text. */
export interface DeviceFailure {
  /** What the operator can do about it. */
  readonly hint?: string;
  /** The error that led to this one. */
  readonly cause?: unknown;
}

const meanings = {
  PROFILE_INVALID: "A device profile lacks a figure or holds one of a wrong type, unit or range.",
  PROFILE_UNMEASURABLE: "A figure that every profile needs cannot be read on this machine.",
  BUDGET_INVALID: "A device budget holds an unknown field or a figure of a wrong unit or range.",
  BOARD_UNKNOWN: "The catalogue has no board of that name.",
} as const;

/** Code of an error of `devices/`. */
export type DeviceErrorCode = keyof typeof meanings;

/** Codes of `devices/`, and the function that makes an error of one of them. */
export const deviceErrors = {
  meanings: meanings as Readonly<Record<DeviceErrorCode, string>>,
  error: (code: DeviceErrorCode, message: string, options?: DeviceFailure): DeviceError =>
    new DeviceError(code, message, options),
};
