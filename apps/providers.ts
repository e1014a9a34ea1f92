// `--provider`: which of this machine's processors a command's engine computes on.
import { chooseProviders, type ProviderChoice, type ProviderName } from "../runtime/index.ts";

/** The engine's providers for what a person chose, `auto` when left out. One line is logged when what was asked for by name does not work. */
export function engineProviders(
  choice: ProviderChoice | undefined,
  log: (message: string) => void,
): Promise<readonly ProviderName[]> {
  const debug = process.env["TRIFOLD_DEBUG"] === "1" ? { debug: log } : {};
  return chooseProviders(choice ?? "auto", { warn: log, ...debug });
}
