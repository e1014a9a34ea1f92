// The protocols of a program: built-in ones by name, others from packages or files that its own operator lists. This is
// the only place where a protocol is imported, and no name that came over the wire gets here.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { z } from "zod";
import { type AnyProtocol, builtInProtocols, protocolErrors } from "../protocols/index.ts";

/** What to load, and from where. */
export interface PackagesOptions {
  /** Names of built-in protocols, packages, or paths that begin with "." or "/". */
  readonly names: readonly string[];
  /** Paths are relative to it, and packages are looked for from there before they are from here. */
  readonly folder: string;
}

/**
 * The protocols of a list, in its order. Throws `PROTOCOL_PACKAGE_MISSING` when one cannot be imported, and
 * `PROTOCOL_PACKAGE_INVALID` when it exports no `protocol`, one of another shape, or one whose name is taken.
 */
export async function loadProtocols({
  names,
  folder,
}: PackagesOptions): Promise<readonly AnyProtocol[]> {
  const loaded: AnyProtocol[] = [];
  for (const name of new Set(names)) {
    const builtIn = builtInProtocols.find((known) => known.name === name);
    loaded.push(builtIn ?? checked(name, await importFrom(name, folder), loaded));
  }
  return loaded;
}

/** Every built-in protocol, and then those of a list. */
export async function withBuiltIns(options: PackagesOptions): Promise<readonly AnyProtocol[]> {
  const builtIn = builtInProtocols.map(({ name }) => name);
  return loadProtocols({ ...options, names: [...builtIn, ...options.names] });
}

async function importFrom(name: string, folder: string): Promise<unknown> {
  try {
    return await import(moduleOf(name, folder));
  } catch (cause) {
    const builtIn = builtInProtocols.map((known) => known.name).join(", ");
    throw protocolErrors.error("PROTOCOL_PACKAGE_MISSING", `cannot import the protocol "${name}"`, {
      hint: `Built in are ${builtIn}; anything else is a package installed beside Trifold, or a path such as ./mine.mjs.`,
      cause,
    });
  }
}

function moduleOf(name: string, folder: string): string {
  if (/^[./]/.test(name)) return pathToFileURL(resolve(folder, name)).href;
  try {
    return pathToFileURL(createRequire(join(folder, "from-here.js")).resolve(name)).href;
  } catch {
    // A package that exports nothing to require(), or that lies beside this program.
    return name;
  }
}

function checked(name: string, module: unknown, others: readonly AnyProtocol[]): AnyProtocol {
  const parsed = moduleSchema.safeParse(module);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(name, `${issue?.path.join(".")}: ${issue?.message}`);
  }
  const { protocol } = module as { readonly protocol: AnyProtocol };
  const taken = [...builtInProtocols, ...others].some((other) => other.name === protocol.name);
  if (taken) throw invalid(name, `protocol.name: another protocol is called "${protocol.name}"`);
  return protocol;
}

function invalid(name: string, what: string): Error {
  return protocolErrors.error(
    "PROTOCOL_PACKAGE_INVALID",
    `the protocol package "${name}": ${what}`,
    {
      hint: "It must export an object `protocol` as protocols/README.md describes it.",
    },
  );
}

const method = z.custom((value) => typeof value === "function", "expected a function");

const moduleSchema = z.object({
  protocol: z.object({
    name: z.string().regex(/^[A-Za-z0-9-]{1,64}$/, "expected 1 to 64 letters, digits or dashes"),
    version: z.int().positive(),
    estimate: method,
    parseDown: method,
    parseUp: method,
    rawBytes: method,
    createClient: method,
    createServer: method,
    cutLayers: method.optional(),
    modes: method.optional(),
    allowance: method.optional(),
    refusal: method.optional(),
    heeds: z.array(z.enum(["rank", "encoding"])).optional(),
  }),
});
