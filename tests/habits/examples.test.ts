// What people copy must work: example files go through the real parsers, documented fields, commands and links exist.
import { execFile } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { parse } from "yaml";
import { z } from "zod";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { readDeviceConfig } from "../../apps/device/config.ts";
import type { DeviceBudget, DeviceProfile } from "../../devices/index.ts";
import { taskSchema } from "../../protocols/index.ts";
import { runTrifold } from "../apps/program.ts";
import { documents, links, programCalls, tableRows } from "./documents.ts";

t.test("examples/task.yaml is a task, and its values are the defaults", async (t) => {
  const { settings, data } = await readTaskFile("examples/task.yaml");
  const { name, head } = settings;
  t.same(settings, taskSchema.parse({ name, head }));
  t.equal(data.textColumn, "text");
  t.equal(data.labelColumn, "label");
  t.match(data.test, /examples[\\/]test\.csv$/, "paths are relative to the file");
});

t.test("examples/task.yaml shows every field", (t) => {
  const text = uncommented("examples/task.yaml");
  for (const { path } of taskFields()) t.ok(hasPath(parse(text), path), path);
  t.ok(hasPath(parse(text), "data.public"));
  t.ok(hasPath(parse(text), "model"));
  t.end();
});

t.test("examples/device.yaml is a configuration, with every limit and figure", async (t) => {
  const asItIs = await readDeviceConfig("examples/device.yaml");
  t.equal(asItIs.profile, undefined, "a board that copies it still measures itself");
  const folder = t.testdir({ "device.yaml": uncommented("examples/device.yaml") });
  const { budget, profile } = await readDeviceConfig(join(folder, "device.yaml"));
  t.same(Object.keys(budget).sort(), Object.keys(budgetFields).sort());
  t.same(Object.keys(profile ?? {}).sort(), Object.keys(profileFields).sort());
});

t.test("the guide for authors shows the example as it is", async (t) => {
  const guide = readFileSync("protocols/README.md", "utf8");
  const [, shown] = /```js\n([\s\S]*?)```/.exec(guide) ?? [];
  t.equal(shown, readFileSync("examples/sign-protocol.mjs", "utf8"));
});

t.test("docs/task.md lists every field with its range and default", (t) => {
  const rows = tableRows(readFileSync("docs/task.md", "utf8"));
  for (const { path, values, fallback } of taskFields()) {
    const [, , documented = "", inWords = ""] = rows.get(path) ?? [];
    t.ok(rows.has(path), `${path} has a row`);
    if (values !== undefined) t.equal(documented, values, `values of ${path}`);
    t.equal(inWords, fallback, `default of ${path}`);
  }
  t.end();
});

t.test("commands and flags in the documents exist", async (t) => {
  const overview = (await runTrifold(["--help"])).stdout;
  const commands = namedIn(overview);
  const helps = new Map<string, string>();
  for (const command of commands) {
    const { stdout: help } = await runTrifold([command, "--help"]);
    // What `keys` does has flags of its own.
    const parts = namedIn(help).map((part) => runTrifold([command, part, "--help"]));
    const texts = (await Promise.all(parts)).map(({ stdout }) => stdout);
    helps.set(command, [help, ...texts].join("\n"));
  }
  for (const { file, command, flags } of documents().flatMap(programCalls)) {
    t.ok(helps.has(command), `${file}: trifold ${command}`);
    for (const flag of flags) {
      t.match(helps.get(command), new RegExp(`${flag}\\b`), `${file}: ${command} ${flag}`);
    }
  }
  const readme = readFileSync("README.md", "utf8");
  for (const command of commands) t.match(readme, `\`${command}\``, `README names ${command}`);
});

/** Commands that a help text lists. */
function namedIn(help: string): string[] {
  const [, list = ""] = help.split("\nCommands:\n");
  const names = [...list.matchAll(/^ {2}(\w+)(?= )/gm)].map(([, name]) => name ?? "");
  return names.filter((name) => name !== "help");
}

t.test("scripts in the documents exist", (t) => {
  const { scripts } = z
    .object({ scripts: z.record(z.string(), z.string()) })
    .parse(JSON.parse(readFileSync("package.json", "utf8")));
  for (const { file, text } of documents()) {
    for (const [, name = ""] of text.matchAll(/\bnpm run ([a-z]+)/g)) {
      t.ok(name in scripts, `${file}: npm run ${name}`);
    }
  }
  t.end();
});

t.test("links between the documents lead somewhere", (t) => {
  for (const { file, target } of documents().flatMap(links)) {
    const path = join(dirname(file), target);
    t.ok(statSync(path, { throwIfNoEntry: false }), `${file}: ${target}`);
  }
  t.end();
});

t.test("examples/library.mjs trains an adapter", async (t) => {
  const { stdout } = await promisify(execFile)(process.execPath, ["examples/library.mjs"]);
  const [, first, last, adapter = ""] = /loss (\S+) -> (\S+), adapter in (\S+)/.exec(stdout) ?? [];
  t.teardown(() => rm(dirname(adapter), { recursive: true }));
  t.ok(Number(last) < Number(first) / 2, stdout);
  t.ok(statSync(join(adapter, "adapter_model.safetensors")).size > 0);
});

// A new field does not compile until it is named here, and then the example must show it.
const budgetFields: Readonly<Record<keyof DeviceBudget, true>> = {
  trainingMemoryBytes: true,
  uplinkBytesPerRound: true,
  downlinkBytesPerRound: true,
  bytesPerRound: true,
  secondsPerRound: true,
  joulesPerRound: true,
};
const profileFields: Readonly<Record<keyof DeviceProfile, true>> = {
  board: true,
  memory: true,
  cores: true,
  gemmFlopsPerSecond: true,
  link: true,
  power: true,
  temperatureCelsius: true,
  throttled: true,
  providers: true,
};

/** A field of a task as its schema knows it. */
interface TaskField {
  readonly path: string;
  /** How docs/task.md writes the values; undefined where words do it better. */
  readonly values: string | undefined;
  /** How docs/task.md writes the default: as JSON in code, `required` or `none`. */
  readonly fallback: string;
}

interface JsonSchema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly default?: unknown;
  readonly required?: readonly string[];
  readonly enum?: readonly string[];
  readonly const?: string;
  /** Groups that one field tells apart. */
  readonly oneOf?: readonly JsonSchema[];
  readonly minimum?: number;
  readonly exclusiveMinimum?: number;
  readonly maximum?: number;
}

function taskFields(): TaskField[] {
  return fieldsOf(z.toJSONSchema(taskSchema, { io: "input" }) as JsonSchema, "", undefined, true);
}

/** The leaves below a schema; a group's default holds those of its fields. */
function fieldsOf(
  schema: JsonSchema,
  path: string,
  inherited: unknown,
  isRequired: boolean,
): TaskField[] {
  const fallback = schema.default ?? inherited;
  if (schema.oneOf?.every(({ properties }) => properties)) {
    return fieldsOf(together(schema.oneOf), path, fallback, isRequired);
  }
  if (schema.properties) {
    const group = (fallback ?? {}) as Readonly<Record<string, unknown>>;
    return Object.entries(schema.properties).flatMap(([name, part]) =>
      fieldsOf(
        part,
        path === "" ? name : `${path}.${name}`,
        group[name],
        schema.required?.includes(name) ?? false,
      ),
    );
  }
  const without = isRequired ? "required" : "none";
  const inWords = fallback === undefined ? without : `\`${JSON.stringify(fallback)}\``;
  return [{ path, values: valuesOf(schema), fallback: inWords }];
}

/** One group with the fields of all; what tells them apart takes each one's value. */
function together(groups: readonly JsonSchema[]): JsonSchema {
  const names = [...new Set(groups.flatMap(({ properties = {} }) => Object.keys(properties)))];
  const properties = names.map((name): [string, JsonSchema] => {
    const parts = groups.flatMap(({ properties: own = {} }) => own[name] ?? []);
    const values = parts.flatMap(({ const: value }) => value ?? []);
    return [name, values.length === groups.length ? { enum: values } : (parts[0] ?? {})];
  });
  const required = [...new Set(groups.flatMap((group) => group.required ?? []))];
  return { properties: Object.fromEntries(properties), required };
}

function valuesOf(schema: JsonSchema): string | undefined {
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "boolean") return "true or false";
  if (schema.type === "integer") return `whole, ${rangeOf(schema)}`;
  return schema.type === "number" ? rangeOf(schema) : undefined;
}

function rangeOf({ type, minimum, exclusiveMinimum, maximum }: JsonSchema): string {
  if (type === "number" && exclusiveMinimum !== undefined) return `above ${exclusiveMinimum}`;
  const least = minimum ?? (exclusiveMinimum ?? 0) + 1;
  const isBounded = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  return isBounded ? `${least} to ${maximum}` : `${least} or more`;
}

/** A YAML file with the fields that stand in comments. */
function uncommented(file: string): string {
  return readFileSync(file, "utf8").replace(/^( *)# (?=( *)[a-zA-Z]+:( |$))/gm, "$1");
}

function hasPath(value: unknown, path: string): boolean {
  const [name = "", ...rest] = path.split(".");
  if (typeof value !== "object" || value === null || !(name in value)) return false;
  const inner = (value as Readonly<Record<string, unknown>>)[name];
  return rest.length === 0 || hasPath(inner, rest.join("."));
}
