// What an error says of itself, by its shape: each library has an error class of its own, and foreign code
// throws what it likes.

/** An error in words. */
export interface ErrorText {
  /** "UNEXPECTED" for errors without one. */
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
}

/** Code, message and hint of whatever was thrown. */
export function errorText(error: unknown): ErrorText {
  const hint = textOf(error, "hint");
  return {
    code: textOf(error, "code") ?? unexpected,
    message: textOf(error, "message") ?? String(error),
    ...(hint === undefined ? {} : { hint }),
  };
}

/** "CODE: message"; the message alone for errors without a code. */
export function errorLine(error: unknown): string {
  const { code, message } = errorText(error);
  return code === unexpected ? message : `${code}: ${message}`;
}

const unexpected = "UNEXPECTED";

function textOf(error: unknown, key: keyof ErrorText): string | undefined {
  const value =
    typeof error === "object" && error !== null
      ? (error as Readonly<Record<string, unknown>>)[key]
      : undefined;
  return typeof value === "string" && value !== "" ? value : undefined;
}
