// JSON files of model, tokenizer and adapter folders.
import { readFile, stat } from "node:fs/promises";
import { runtimeErrors } from "../errors.ts";

/** What is thrown when a JSON file cannot be read. */
export interface JsonFileFailure {
  readonly code: Parameters<typeof runtimeErrors.error>[0];
  readonly hint: string;
}

/** Largest JSON file read; tokenizers of 250,000 entries take about a quarter of it. */
const maximumBytes = 2 ** 26;

/** The parsed content of a JSON file of at most 64 MiB; throws the error of `failure`, naming the file. */
export async function readJsonFile(file: string, failure: JsonFileFailure): Promise<unknown> {
  const { code, hint } = failure;
  const text = await readBounded(file).catch((cause: unknown) => {
    throw runtimeErrors.error(code, `${file} cannot be read`, { cause, hint });
  });
  if (text === undefined) {
    throw runtimeErrors.error(code, `${file} is larger than ${maximumBytes} bytes`, { hint });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw runtimeErrors.error(code, `${file} is not JSON`, { cause, hint });
  }
}

async function readBounded(file: string): Promise<string | undefined> {
  if ((await stat(file)).size > maximumBytes) return undefined;
  return await readFile(file, "utf8");
}
