// What a broker retains, on disk: after a restart the statuses of devices and coordinator stand again before anyone has connected.
// The wills of whoever is connected are kept too: who does not come back after a kill of the broker is lost by its will.
// Loaded only where it is asked for.
import { mkdir } from "node:fs/promises";
import { brokerErrors } from "./errors.ts";

/** A persistence for Aedes, and its end. */
export interface Persistence {
  readonly aedes: unknown;
  close(): Promise<void>;
}

/**
 * Opens the store in `folder`, created when missing. What is stored survives a kill of this process; aedes acknowledges a message
 * shortly before, and a power cut may take the last ones: statuses, which are published again on the next connection.
 * Throws `BROKER_STORE_UNUSABLE`, also when another broker has it open.
 */
export async function openPersistence(folder: string): Promise<Persistence> {
  const [{ Level }, { default: createPersistence }] = await Promise.all([
    import("level"),
    import("aedes-persistence-level"),
  ]);
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const database = new Level(folder, { valueEncoding: "buffer" });
    await database.open();
    return { aedes: createPersistence(database), close: () => database.close() };
  } catch (cause) {
    const text = `the broker's store ${folder} cannot be opened`;
    throw brokerErrors.error("BROKER_STORE_UNUSABLE", text, {
      cause,
      hint: "Give a folder that this user may write to and that no other broker uses.",
    });
  }
}
