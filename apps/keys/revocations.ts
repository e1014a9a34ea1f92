// Keeps a running broker at the revocation list of a keys folder: a revocation counts from the moment in which it is written.
import { existsSync, watch } from "node:fs";
import { join } from "node:path";
import type { Broker } from "../../broker/index.ts";
import { revokedSerials } from "./key-folder.ts";

/** What is followed, and for whom. */
export interface FollowOptions {
  readonly broker: Pick<Broker, "revoke">;
  /** Folder with crl.pem; nothing is followed without one. */
  readonly keys: string | undefined;
  readonly log: (message: string) => void;
}

/** Applies the list now and whenever it changes, until the result is called. Throws `KEYS_DAMAGED` when it cannot be read now. */
export async function followRevocations({ broker, keys, log }: FollowOptions): Promise<() => void> {
  const file = join(keys ?? "", "crl.pem");
  if (keys === undefined || !existsSync(file)) return () => {};
  // One reading after the other: an older list must not come after a newer one.
  let last = Promise.resolve();
  const apply = (): Promise<void> => {
    const now = last.then(async () => broker.revoke(await revokedSerials(file)));
    last = now.catch(() => {});
    return now;
  };
  const note = (error: unknown) => log(error instanceof Error ? error.message : String(error));
  // The folder: the file is replaced, not written into. Watched before it is read, so that no revocation falls in between.
  const watcher = watch(keys, { persistent: false }, (_event, name) => {
    // What was revoked stays so when the new list cannot be read.
    if (name === "crl.pem") apply().catch(note);
  });
  watcher.on("error", note);
  try {
    await apply();
  } catch (error) {
    watcher.close();
    throw error;
  }
  return () => watcher.close();
}
