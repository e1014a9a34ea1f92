// The folder of a private authority: ca.pem and ca.key, crl.pem, a certificate and a key for each server and device, and
// issued.json with what was ever issued. Private keys have mode 600, the folder 700, and nothing is overwritten unasked.
import { existsSync } from "node:fs";
import { chmod, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { writeFileAtomic } from "../../runtime/index.ts";
import {
  createAuthority,
  createRevocationList,
  type Holder,
  issueCertificate,
  type KeyPair,
  serialsOf,
} from "./certificates.ts";
import { keyErrors } from "./errors.ts";

/** Files of a holder. */
export interface HolderFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const recordSchema = z.strictObject({
  crlNumber: z.int().nonnegative(),
  issued: z.array(
    z.strictObject({
      name: z.string(),
      serial: z.string().regex(/^[0-9a-f]{32}$/),
      issuedAt: z.string(),
      revokedAt: z.string().exactOptional(),
    }),
  ),
});

type Record = z.output<typeof recordSchema>;

/** Creates an authority in `folder`; throws `KEYS_EXIST` when there is one. */
export async function initKeys(folder: string): Promise<void> {
  if (existsSync(join(folder, "ca.key"))) {
    throw keyErrors.error("KEYS_EXIST", `${folder} has an authority already`, {
      hint: "Go on with it: `trifold keys server` and `trifold keys device NAME` use it.",
    });
  }
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const authority = await createAuthority("Trifold private authority");
  await write(folder, "ca", authority);
  await save(folder, authority, { crlNumber: 0, issued: [] });
}

/** Issues a certificate; with `renew` it takes the place of the former one, which is revoked. Throws `KEYS_EXIST` or `KEYS_MISSING`. */
export async function issueKeys(
  folder: string,
  holder: Holder & { readonly file: string },
  { renew = false }: { readonly renew?: boolean } = {},
): Promise<HolderFiles> {
  const { file, name } = holder;
  const authority = await authorityOf(folder);
  const files = {
    ca: join(folder, "ca.pem"),
    cert: join(folder, `${file}.pem`),
    key: join(folder, `${file}.key`),
  };
  if (existsSync(files.key) && !renew) {
    throw keyErrors.error("KEYS_EXIST", `${files.key} exists: ${name} has a certificate`, {
      hint: "Give --renew to issue another one and revoke this one.",
    });
  }
  const record = await recordOf(folder);
  const issued = await issueCertificate(authority, holder);
  await write(folder, file, issued);
  const now = new Date().toISOString();
  const former = renew ? revoked(record, name, now) : record;
  const entry = { name, serial: issued.serial, issuedAt: now };
  await save(folder, authority, { ...former, issued: [...former.issued, entry] });
  return files;
}

/** Revokes every certificate of that name and gives their number; throws `KEYS_MISSING` when there is none. */
export async function revokeKeys(folder: string, name: string): Promise<number> {
  const authority = await authorityOf(folder);
  const record = await recordOf(folder);
  const count = record.issued.filter((one) => one.name === name && !one.revokedAt).length;
  if (count === 0) {
    const known = [...new Set(record.issued.map((one) => one.name))].sort().join(", ");
    throw keyErrors.error("KEYS_MISSING", `${folder} has no valid certificate of ${name}`, {
      hint: known === "" ? "None was issued yet." : `It has issued certificates to: ${known}.`,
    });
  }
  await save(folder, authority, revoked(record, name, new Date().toISOString()));
  return count;
}

/** Serial numbers, hexadecimal, of the certificates that a list revokes; throws `KEYS_DAMAGED`. */
export async function revokedSerials(file: string): Promise<readonly string[]> {
  try {
    return serialsOf(await readFile(file, "utf8"));
  } catch (cause) {
    throw keyErrors.error("KEYS_DAMAGED", `${file} is not a revocation list`, { cause });
  }
}

function revoked(record: Record, name: string, at: string): Record {
  const issued = record.issued.map((one) =>
    one.name === name && !one.revokedAt ? { ...one, revokedAt: at } : one,
  );
  return { ...record, issued };
}

/** The list first: what is revoked must be believed no longer, whatever becomes of the record. */
async function save(folder: string, authority: KeyPair, record: Record): Promise<void> {
  const crlNumber = record.crlNumber + 1;
  const revocations = record.issued.flatMap(({ serial, revokedAt }) =>
    revokedAt ? [{ serial, at: new Date(revokedAt) }] : [],
  );
  const list = await createRevocationList(authority, { number: crlNumber, revocations });
  await writeFileAtomic(join(folder, "crl.pem"), list);
  const text = `${JSON.stringify({ ...record, crlNumber }, undefined, 2)}\n`;
  await writeFileAtomic(join(folder, "issued.json"), text);
}

async function write(folder: string, file: string, { cert, key }: KeyPair): Promise<void> {
  await writeFileAtomic(join(folder, `${file}.key`), key, 0o600);
  await writeFileAtomic(join(folder, `${file}.pem`), cert);
}

async function authorityOf(folder: string): Promise<KeyPair> {
  const read = (file: string) => readFile(join(folder, file), "utf8").catch(() => undefined);
  const [cert, key] = await Promise.all([read("ca.pem"), read("ca.key")]);
  if (cert !== undefined && key !== undefined) return { cert, key };
  throw keyErrors.error("KEYS_MISSING", `${folder} has no authority`, {
    hint: "Run `trifold keys init` first, or name its folder with --keys.",
  });
}

async function recordOf(folder: string): Promise<Record> {
  const path = join(folder, "issued.json");
  try {
    return recordSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (cause) {
    throw keyErrors.error("KEYS_DAMAGED", `${path} is not a record of issued certificates`, {
      hint: "Restore it from a copy: without it nothing could be revoked.",
      cause,
    });
  }
}
