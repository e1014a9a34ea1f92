// Values of command line options, checked where they enter.
import { InvalidArgumentError, Option } from "commander";
import { parseQuantity } from "../../devices/index.ts";
import type { ExecutionMode } from "../../runtime/index.ts";
import type { ExecutionChoice } from "../execution.ts";

/** A whole number of at least `minimum`. */
export function wholeNumber(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= minimum && Number.isSafeInteger(value)) return value;
    throw new InvalidArgumentError(`It must be a whole number of at least ${minimum}.`);
  };
}

/** A finite number above 0. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value > 0) return value;
  throw new InvalidArgumentError("It must be a number above 0.");
}

/** A finite number of at least 0. */
export function nonNegativeNumber(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value >= 0) return value;
  throw new InvalidArgumentError("It must be a number of at least 0.");
}

/** A share from 0 to below 1. */
export function fraction(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value < 1) return value;
  throw new InvalidArgumentError("It must be a number from 0 to below 1, such as 0.2.");
}

/** A share above 0, up to 1. */
export function shareOfOne(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && value > 0 && value <= 1) return value;
  throw new InvalidArgumentError("It must be a number above 0, up to 1, such as 0.9.");
}

/** Names separated by commas, none empty. */
export function nameList(text: string): readonly string[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => name !== "")) return names;
  throw new InvalidArgumentError("It must be names separated by commas.");
}

/** Whole numbers separated by commas, each once, ascending. */
export function numberList(text: string): readonly number[] {
  const parts = text.split(",").map((part) => part.trim());
  if (parts.every((part) => /^\d+$/.test(part))) {
    return [...new Set(parts.map(Number))].sort((a, b) => a - b);
  }
  throw new InvalidArgumentError("It must be whole numbers separated by commas, such as 0,1,3.");
}

/** A number of bytes, such as `400MB`. */
export function byteQuantity(text: string): number {
  const value = parseQuantity(text, "bytes");
  if (value !== undefined && value > 0) return Math.floor(value);
  throw new InvalidArgumentError("It must be a size such as 400MB or 2GiB.");
}

/** The options `--memory` and `--mode`, whose values `executionOf` takes. */
export function executionOptions(): Option[] {
  const memory = "most memory of the process, such as 400MB: chooses the mode";
  const mode = "how the model is executed (default: whole-float32)";
  return [
    new Option("--memory <size>", memory).argParser(byteQuantity),
    new Option("--mode <name>", mode).choices(Object.keys(modes)),
  ];
}

// Not the list of the runtime itself, which would load all of it to print a help text.
const modes: { readonly [M in ExecutionMode]: true } = {
  "whole-float32": true,
  "whole-int8": true,
  "blocks-float32": true,
  "blocks-int8": true,
  "whole-int4": true,
};

/** What the options of `executionOptions` were given. */
export interface ExecutionFlags {
  readonly memory?: number;
  readonly mode?: ExecutionMode;
}

/** The choice that these flags make. */
export function executionOf({ memory, mode }: ExecutionFlags): ExecutionChoice {
  return {
    ...(memory === undefined ? {} : { memoryBytes: memory }),
    ...(mode === undefined ? {} : { mode }),
  };
}

/** The option `--provider`. */
export function providerOption(): Option {
  const text = "what to compute on: auto takes a GPU that works (default: auto)";
  return new Option("--provider <name>", text).choices(["auto", "cpu", "cuda"]);
}

/** The examples under a command's help. */
export function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ trifold ${line}`).join("\n")}`;
}

/** Gathers the values of an option that may be repeated. */
export function several(value: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, value];
}
