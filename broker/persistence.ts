// What the embedded broker keeps on disk when asked to: retained messages and the wills of whoever is connected. Sessions are
// clean, so there is nothing else. aedes' own package for LevelDB does it; this file opens and closes the database.
import { mkdir } from "node:fs/promises";
import levelPersistence from "aedes-persistence-level";
import { ClassicLevel } from "classic-level";
import type { TrifoldError } from "../runtime/index.ts";
import { brokerErrors } from "./errors.ts";

/** An open database. */
export interface Persistence {
  /** For aedes. */
  readonly persistence: unknown;
  /** Call when aedes is closed. */
  close(): Promise<void>;
}

/**
 * Opens the database in `folder`, making it if there is none. What is stored survives a kill of this process; aedes
 * acknowledges a message shortly before, and a power cut may take the last ones: statuses, which devices publish again. Throws `BROKER_PERSISTENCE_UNUSABLE`.
 */
export async function openPersistence(folder: string): Promise<Persistence> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const database = new ClassicLevel(folder);
    await database.open();
    return { persistence: levelPersistence(database), close: () => database.close() };
  } catch (error) {
    throw unusable(folder, error);
  }
}

function unusable(folder: string, error: unknown): TrifoldError {
  // abstract-level says only that it could not open, and why in the cause.
  const { cause = error } = error as Error;
  const { code, message } = cause as NodeJS.ErrnoException;
  const [why, hint] =
    code === "LEVEL_LOCKED"
      ? ["another broker uses it", "stop that one, or give this one a folder of its own"]
      : [message, "give a folder that this user may write, or remove it: statuses come again"];
  const text = `the broker cannot keep its retained messages in ${folder}: ${why}`;
  return brokerErrors.error("BROKER_PERSISTENCE_UNUSABLE", text, { cause, hint });
}
