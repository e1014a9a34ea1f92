// Where base models are kept as the float32 files that sessions map.
import { homedir } from "node:os";
import { join } from "node:path";

/** `TRIFOLD_CACHE`, else `trifold` in the user's cache folder. May be deleted at any time nothing runs. */
export function defaultCacheFolder(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const { TRIFOLD_CACHE, XDG_CACHE_HOME, LOCALAPPDATA } = environment;
  // Set but empty counts as not set, as the XDG base directory specification says.
  if (TRIFOLD_CACHE) return TRIFOLD_CACHE;
  return join(XDG_CACHE_HOME || LOCALAPPDATA || join(homedir(), ".cache"), "trifold");
}
