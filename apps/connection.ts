// How a program reaches or offers a broker: options of the command line turned into what `broker/` takes.
// Passwords come from files or the environment, never from arguments, which every user of a machine can read.
import { readFile } from "node:fs/promises";
import type { BrokerOptions, Credentials } from "../broker/index.ts";
import { appErrors } from "./errors.ts";

/** Flags of everything that connects to a broker. */
export interface ConnectionFlags {
  readonly username?: string;
  readonly passwordFile?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** What a connection is authenticated with. */
export interface ConnectionSecrets {
  readonly username?: string;
  readonly password?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Reads the files that the flags name; throws `SECRET_FILE_UNREADABLE` naming the flag. */
export async function readSecrets(flags: ConnectionFlags): Promise<ConnectionSecrets> {
  const file = (flag: string, path: string | undefined) =>
    path === undefined ? undefined : readSecret(flag, path);
  const password =
    (await file("--password-file", flags.passwordFile)) ?? process.env["TRIFOLD_PASSWORD"];
  const found = {
    username: flags.username,
    password: password?.replace(/\r?\n$/, ""),
    ca: await file("--ca", flags.ca),
    cert: await file("--cert", flags.cert),
    key: await file("--key", flags.key),
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

/** Flags of everything that listens. */
export interface ListenerFlags {
  readonly listen: string;
  readonly credentials?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Where and how to listen, from a URL such as `mqtt://127.0.0.1:1883` or `mqtts://0.0.0.0:8883`. */
export async function listenerOf(flags: ListenerFlags): Promise<Omit<BrokerOptions, "log">> {
  const url = URL.canParse(flags.listen) ? new URL(flags.listen) : undefined;
  const isSecure = url?.protocol === "mqtts:";
  if (!url?.hostname || !(isSecure || url.protocol === "mqtt:")) {
    throw appErrors.error("OPTION_INVALID", `--listen ${flags.listen} is no address to listen on`, {
      hint: "Give mqtt://HOST:PORT or mqtts://HOST:PORT; port 0 takes a free one.",
    });
  }
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const port = url.port === "" ? (isSecure ? 8883 : 1883) : Number(url.port);
  const credentials =
    flags.credentials === undefined ? undefined : await readCredentials(flags.credentials);
  const tls = isSecure ? await readTls(flags) : undefined;
  return {
    listeners: [{ scheme: isSecure ? "mqtts" : "mqtt", host, port }],
    ...(credentials ? { credentials } : {}),
    ...(tls ? { tls } : {}),
  };
}

/** One `name:password` a line; blank lines and lines that begin with # are skipped. */
async function readCredentials(path: string): Promise<Credentials> {
  const lines = (await readSecret("--credentials", path)).split(/\r?\n/);
  const entries = lines.flatMap((line, i): [string, string][] => {
    if (line.trim() === "" || line.startsWith("#")) return [];
    const colon = line.indexOf(":");
    if (colon > 0 && colon < line.length - 1)
      return [[line.slice(0, colon), line.slice(colon + 1)]];
    throw appErrors.error("OPTION_INVALID", `${path}:${i + 1} is not name:password`, {
      hint: "One line for each device and one for the user coordinator.",
    });
  });
  return new Map(entries);
}

async function readTls(flags: ListenerFlags): Promise<NonNullable<BrokerOptions["tls"]>> {
  if (flags.cert === undefined || flags.key === undefined) {
    throw appErrors.error("OPTION_INVALID", "an mqtts listener needs --cert and --key");
  }
  const [cert, key] = [
    await readSecret("--cert", flags.cert),
    await readSecret("--key", flags.key),
  ];
  return {
    cert,
    key,
    ...(flags.ca === undefined ? {} : { ca: await readSecret("--ca", flags.ca) }),
  };
}

async function readSecret(flag: string, path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw appErrors.error("SECRET_FILE_UNREADABLE", `${flag} ${path} cannot be read`, { cause });
  }
}
