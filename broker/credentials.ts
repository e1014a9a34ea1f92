import { createHash, timingSafeEqual } from "node:crypto";

/** Passwords by user name. */
export type Credentials = ReadonlyMap<string, string>;

/** Whether the password is that user's. Takes as long for unknown users as for wrong passwords. */
export function hasPassword(
  credentials: Credentials,
  username: string | undefined,
  password: Uint8Array | undefined,
): boolean {
  const expected = username === undefined ? undefined : credentials.get(username);
  const given = digest(password ?? "");
  const isEqual = timingSafeEqual(given, digest(expected ?? ""));
  return isEqual && expected !== undefined && expected !== "";
}

function digest(text: string | Uint8Array): Buffer {
  return createHash("sha256").update(text).digest();
}
