// How a program reaches or offers a broker: options of the command line turned into what `broker/` takes.
// Passwords come from files or the environment, never from arguments, which every user of a machine can read.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type BrokerOptions,
  brokerErrors,
  type Credentials,
  isLoopback,
  isScheme,
  type ListenerTls,
  schemes,
} from "../broker/index.ts";
import { appErrors } from "./errors.ts";

/** Flags of everything that connects to a broker. */
export interface ConnectionFlags {
  readonly username?: string;
  readonly passwordFile?: string;
  /** Folder of `trifold keys`: `ca`, and `cert` and `key` of `holder`, unless given. */
  readonly keys?: string;
  readonly holder?: string;
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
  const { keys, holder } = flags;
  const inKeys = (name: string) => (keys && holder ? join(keys, name) : undefined);
  const found = {
    username: flags.username,
    password: password?.replace(/\r?\n$/, ""),
    ca: await file("--ca", flags.ca ?? inKeys("ca.pem")),
    cert: await file("--cert", flags.cert ?? inKeys(`${holder}.pem`)),
    key: await file("--key", flags.key ?? inKeys(`${holder}.key`)),
  };
  return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
}

/** Secrets of another client than this program is: in the folder of `trifold keys`, or a password file; undefined without either. */
export async function secretsOf(
  holder: string,
  { keys, passwordFile }: { readonly keys?: string; readonly passwordFile?: string },
): Promise<ConnectionSecrets | undefined> {
  if (passwordFile !== undefined) {
    const password = await readSecret(`--${holder}-password-file`, passwordFile);
    return { password: password.replace(/\r?\n$/, "") };
  }
  if (keys === undefined || !existsSync(join(keys, `${holder}.key`))) {
    return undefined;
  }
  const [cert, key] = [join(keys, `${holder}.pem`), join(keys, `${holder}.key`)];
  return { cert: await readSecret("--keys", cert), key: await readSecret("--keys", key) };
}

/** Flags of everything that listens. */
export interface ListenerFlags {
  /** `mqtt://127.0.0.1:1883` unless told. */
  readonly listen?: readonly string[];
  readonly credentials?: string;
  /** Whether whoever is on this machine may connect. */
  readonly anonymous?: boolean;
  /** Folder of `trifold keys`, for `ca`, `cert` and `key`; its crl.pem is followed. */
  readonly keys?: string;
  /** Folder of what the broker retains over restarts. */
  readonly persistence?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Where and how to listen, and whom to let in. Throws `OPTION_INVALID`, `SECRET_FILE_UNREADABLE` or `BROKER_LISTENER_UNPROTECTED`. */
export async function listenersOf(flags: ListenerFlags): Promise<Omit<BrokerOptions, "log">> {
  const listeners = (flags.listen ?? ["mqtt://127.0.0.1:1883"]).map(listenerAddress);
  const { credentials: file, anonymous = false } = flags;
  if (file !== undefined && anonymous) {
    throw appErrors.error("OPTION_INVALID", "--anonymous and --credentials exclude each other");
  }
  const beyond = listeners.find(({ host }) => !isLoopback(host));
  // Certificates of the clients are the way; passwords the other one.
  const asks = (flags.keys ?? flags.ca) !== undefined;
  const isOpen = listeners.some(({ scheme }) => !(asks && schemes[scheme].isSecure));
  if (file === undefined && isOpen && (beyond !== undefined || !anonymous)) {
    const why =
      beyond === undefined ? "nothing was said of" : "a listener beyond loopback must ask";
    throw brokerErrors.error("BROKER_LISTENER_UNPROTECTED", `${why} who may connect`, {
      hint: "Give --keys FOLDER (trifold keys init) with mqtts:// or wss://, --credentials FILE (name:password lines) or, on 127.0.0.1, --anonymous to let in every program of this machine.",
    });
  }
  const credentials = file === undefined ? undefined : await readCredentials(file);
  const isSecure = listeners.some(({ scheme }) => schemes[scheme].isSecure);
  const tls = isSecure ? await readTls(flags) : undefined;
  const { persistence } = flags;
  return {
    listeners,
    ...(credentials ? { credentials } : {}),
    ...(tls ? { tls } : {}),
    ...(persistence === undefined ? {} : { persistence }),
  };
}

function listenerAddress(text: string) {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const scheme = url?.protocol.slice(0, -1);
  if (!url?.hostname || !isScheme(scheme)) {
    throw appErrors.error("OPTION_INVALID", `--listen ${text} is no address to listen on`, {
      hint: "Give mqtt://HOST:PORT, mqtts://HOST:PORT, ws://HOST:PORT or wss://HOST:PORT; port 0 takes a free one.",
    });
  }
  const port = url.port === "" ? schemes[scheme].port : Number(url.port);
  return { scheme, host: url.hostname.replace(/^\[|\]$/g, ""), port };
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

async function readTls(flags: ListenerFlags): Promise<ListenerTls> {
  const { keys } = flags;
  const inKeys = (name: string) => (keys === undefined ? undefined : join(keys, name));
  const certPath = flags.cert ?? inKeys("server.pem");
  const keyPath = flags.key ?? inKeys("server.key");
  const caPath = flags.ca ?? inKeys("ca.pem");
  if (certPath === undefined || keyPath === undefined) {
    throw appErrors.error("OPTION_INVALID", "an mqtts or wss listener needs --cert and --key", {
      hint: "Or --keys FOLDER with server.pem, server.key and ca.pem.",
    });
  }
  const flag = (name: string) => (keys === undefined ? name : "--keys");
  return {
    cert: await readSecret(flag("--cert"), certPath),
    key: await readSecret(flag("--key"), keyPath),
    ...(caPath === undefined ? {} : { ca: await readSecret(flag("--ca"), caPath) }),
  };
}

async function readSecret(flag: string, path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw appErrors.error("SECRET_FILE_UNREADABLE", `${flag} ${path} cannot be read`, { cause });
  }
}
