// What a command puts on standard output: results for people, or one JSON document. Everything else
// (progress, logs, errors) goes to standard error.

/** A command's result in both forms. */
export interface CommandResult {
  readonly json: unknown;
  /** For people, without a final line end. */
  readonly text: string;
}

/** Writes the result and resolves once standard output took it. */
export async function printResult(
  { json, text }: CommandResult,
  options: { readonly json?: boolean },
): Promise<void> {
  const output = options.json ? JSON.stringify(json) : text;
  await new Promise<void>((resolve) => {
    // A reader that went away (`| head`) is no failure of the command.
    process.stdout.write(`${output}\n`, () => resolve());
  });
}

/** Writes a line for the operator to standard error. */
export function log(message: string): void {
  process.stderr.write(`${message}\n`);
}
