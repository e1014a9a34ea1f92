// How the program fails: one text on standard error and one exit status for every error. Works by the
// shape of an error (`code`, `message`, `hint`), because each library has a catalogue of its own.
import { errorText } from "./error-text.ts";

/** Exit statuses of every command. */
export const exitStatus = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/**
 * Codes that mean wrong usage or configuration (status 2): running the same command again cannot help.
 * An entry that ends in `_` stands for every code that starts so. All other codes are failures (status 1).
 */
export const usageCodes: readonly string[] = [
  "USAGE_INVALID",
  "OPTION_INVALID",
  "TASK_",
  "DATA_",
  "MODEL_",
  "TOKENIZER_",
  "ADAPTER_",
  "CHECKPOINT_",
  "COMPARISON_",
  "REFERENCE_",
  "PROFILE_INVALID",
  "BUDGET_INVALID",
  "BOARD_UNKNOWN",
  "MEMORY_BUDGET_TOO_SMALL",
  "DEVICE_MODEL_MISSING",
  "DEVICE_CONFIG_INVALID",
  "DEVICE_DATA_TOO_SMALL",
  "SECRET_FILE_UNREADABLE",
  "BROKER_OPEN",
  "BROKER_URL_INVALID",
  "BROKER_TLS_FILES_INVALID",
  "BROKER_CERTIFICATE_REFUSED",
  "BROKER_CREDENTIALS_REFUSED",
  "BROKER_LISTENER_UNPROTECTED",
  "BROKER_STORE_UNUSABLE",
  "BROKER_ID_INVALID",
  "PROTOCOL_UNKNOWN",
  "PROTOCOL_PACKAGE_",
  "PROTOCOL_LABELS_WOULD_LEAVE",
];

/** Exit status for an error that ended a command. */
export function exitStatusOf(error: unknown): number {
  if (isInterruption(error)) return exitStatus.interrupted;
  if (isCommanderError(error)) return error.exitCode === 0 ? exitStatus.done : exitStatus.usage;
  const { code } = errorText(error);
  const isUsage = usageCodes.some((known) =>
    known.endsWith("_") ? code.startsWith(known) : code === known,
  );
  return isUsage ? exitStatus.usage : exitStatus.failed;
}

/**
 * The text for the operator: `error CODE: what`, `caused by: ...` and `hint: ...`, each on one line. The
 * stack trace only where `debug` is set; empty for a person's own Ctrl-C.
 */
export function failureText(error: unknown, { debug = false } = {}): string {
  if (isInterruption(error)) return "interrupted\n";
  if (isCommanderError(error)) return commanderText(error);
  const { code, message, hint: ownHint } = errorText(error);
  const lines = [`error ${code}: ${oneLine(message)}`];
  const causes = causeChain(error).map((cause) => oneLine(errorText(cause).message));
  // A cause that the message already quotes says nothing new.
  const news = causes.filter((text, i) => ![lines[0], ...causes.slice(0, i)].join().includes(text));
  if (news.length > 0) lines.push(`caused by: ${news.join(" <- ")}`);
  const hint =
    ownHint ??
    (code === "UNEXPECTED" ? "Set TRIFOLD_DEBUG=1 to see where it happened." : undefined);
  if (hint !== undefined) lines.push(`hint: ${oneLine(hint)}`);
  if (debug && error instanceof Error && error.stack) lines.push(error.stack);
  return `${lines.join("\n")}\n`;
}

/** What an aborted command throws after Ctrl-C or a polite kill. */
export interface Interruption extends Error {
  readonly interrupted: true;
}

/** Makes the reason of an aborted command. */
export function interruption(): Interruption {
  return Object.assign(new Error("interrupted"), { interrupted: true as const });
}

/** Whether an error is the reason of a command that was told to stop. */
export function isInterruption(error: unknown): boolean {
  return typeof error === "object" && error !== null && "interrupted" in error;
}

/** Wrong usage as the command line library reports it; its own texts start with "error: ". */
interface CommanderFailure {
  readonly code: string;
  readonly message: string;
  readonly exitCode: number;
}

function isCommanderError(error: unknown): error is CommanderFailure {
  return errorText(error).code.startsWith("commander.");
}

function commanderText({ code, message }: CommanderFailure): string {
  // Help and version were printed already.
  if (/help|version/i.test(code)) return "";
  const text = oneLine(message.replace(/^error: /, ""));
  return `error USAGE_INVALID: ${text}\nhint: Add --help to see what the command takes.\n`;
}

function causeChain(error: unknown): unknown[] {
  const chain: unknown[] = [];
  let cause = error instanceof Error ? error.cause : undefined;
  while (cause !== undefined && chain.length < 5 && !chain.includes(cause)) {
    chain.push(cause);
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  return chain;
}

function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, "; ").trim();
}
