// The task's model on a device that was given none: its tokenizer, and of its tensors those that the device computes with,
// fetched from the coordinator and kept by hash for every task and model.
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import type { Link } from "../../broker/index.ts";
import { formatQuantity } from "../../devices/index.ts";
import type { Task } from "../../protocols/index.ts";
import {
  type BaseModel,
  openTensorFiles,
  openTokenizer,
  type Tokenizer,
  tensorBytes,
  writeFileAtomic,
} from "../../runtime/index.ts";
import { modelPartsSchema, tokenizerFiles } from "../control-messages.ts";
import { checkTokenizer } from "../model-and-tokenizer.ts";
import { deviceProgramErrors } from "./errors.ts";
import { fetchObjects, type WantedObject, type WantedPiece } from "./object-store.ts";

/** Gets what a device lacks. Fetches one after another, whoever asks. */
export interface Provisioner {
  /** Throws `DEVICE_PROVISION_INVALID` when it is not the task's. */
  tokenizer(task: Task, signal: AbortSignal): Promise<Tokenizer>;
  /** The task's model with these tensors, all of them when left out. */
  model(
    task: Task,
    needed: ReadonlySet<string> | undefined,
    signal: AbortSignal,
  ): Promise<BaseModel>;
}

/** What a provisioner works with. */
export interface ProvisionerOptions {
  readonly deviceId: string;
  readonly link: Pick<Link, "request">;
  /** Holds `objects/<sha256>`, and `fetched/<model sha256>` with the tokenizer and the list of tensors. */
  readonly stateFolder: string;
  readonly log: (message: string) => void;
}

type Parts = z.output<typeof modelPartsSchema>;

/** A provisioner that asks over the link. */
export function createProvisioner(options: ProvisionerOptions): Provisioner {
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.catch(() => {}).then(work);
    last = result;
    return result;
  };
  return {
    tokenizer: (task, signal) => inTurn(() => provideTokenizer(options, task, signal)),
    model: (task, needed, signal) => inTurn(() => provideModel(options, { task, needed }, signal)),
  };
}

async function provideTokenizer(
  options: ProvisionerOptions,
  task: Task,
  signal: AbortSignal,
): Promise<Tokenizer> {
  const { manifest } = task;
  const { tokenizer: files } = await partsOf(options, task, signal);
  const folder = fetchedFolder(options, task);
  await fetchParts(options, Object.values(files), signal);
  for (const name of tokenizerFiles) {
    const file = files[name];
    if (!file) continue;
    const content = await readFile(join(objectsFolder(options), file.sha256));
    await writeFileAtomic(join(folder, name), content);
  }
  const tokenizer = await openTokenizer(folder);
  if (tokenizer.sha256 !== manifest.tokenizerSha256) throw invalid("another tokenizer");
  checkTokenizer(folder, tokenizer, manifest.config);
  return tokenizer;
}

async function provideModel(
  options: ProvisionerOptions,
  { task, needed }: { readonly task: Task; readonly needed: ReadonlySet<string> | undefined },
  signal: AbortSignal,
): Promise<BaseModel> {
  const { config } = task.manifest;
  const { tensors } = await partsOf(options, task, signal);
  const sizes = tensorBytes(config);
  const names = [...(needed ?? sizes.keys())];
  const wanted = names.map((name) => ({
    sha256: tensors[name] as string,
    bytes: sizes.get(name) as number,
  }));
  await fetchParts(options, wanted, signal);
  const model = await openParts(options, task, { tensors });
  if (model && names.every((name) => model.weights.has(name))) return model;
  throw invalid("tensors that are gone");
}

/** Fetches what the store lacks; says how far it is at each tenth. */
async function fetchParts(
  { deviceId, link, stateFolder, log }: ProvisionerOptions,
  wanted: readonly WantedObject[],
  signal: AbortSignal,
): Promise<void> {
  let tenth = -1;
  const onProgress = (bytes: number, totalBytes: number): void => {
    const reached = Math.floor((10 * bytes) / totalBytes);
    if (reached === tenth) return;
    tenth = reached;
    const [there, all] = [bytes, totalBytes].map((count) => formatQuantity(count, "bytes"));
    log(`fetching from the coordinator: ${there} of ${all}`);
  };
  const folder = objectsFolder({ stateFolder });
  const askPiece = async (piece: WantedPiece, until: AbortSignal): Promise<Uint8Array> => {
    const asking = { kind: "model-piece", fields: { ...piece } };
    const reply = await link.request(asking, { signal: until });
    return reply.blobs.get("bytes") ?? new Uint8Array(0);
  };
  await fetchObjects(wanted, { folder, owner: deviceId, askPiece, signal, onProgress });
}

/** What the model consists of: as kept, else as the coordinator tells; the manifest's model hash covers every tensor's. */
async function partsOf(
  options: ProvisionerOptions,
  task: Task,
  signal: AbortSignal,
): Promise<Parts> {
  const folder = fetchedFolder(options, task);
  const file = join(folder, "parts.json");
  const kept = parse(await readFile(file).catch(() => undefined));
  if (kept && (await openParts(options, task, kept))) return kept;
  const reply = await options.link.request({ kind: "model-parts" }, { signal });
  const told = parse(reply.blobs.get("parts"));
  if (!told || !(await openParts(options, task, told)))
    throw invalid("a list of tensors that is not the model's");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFileAtomic(file, JSON.stringify(told));
  return told;
}

/** Thousands of tensors have room in it. */
const largestListBytes = 2 ** 20;

function parse(bytes: Uint8Array | undefined): Parts | undefined {
  if (!bytes || bytes.length > largestListBytes) return undefined;
  try {
    return modelPartsSchema.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch {
    return undefined;
  }
}

function openParts(
  options: ProvisionerOptions,
  { manifest }: Task,
  { tensors }: Pick<Parts, "tensors">,
): Promise<BaseModel | undefined> {
  const { config, modelSha256: sha256 } = manifest;
  return openTensorFiles(
    { config, sha256 },
    new Map(Object.entries(tensors)),
    objectsFolder(options),
  );
}

function objectsFolder({ stateFolder }: Pick<ProvisionerOptions, "stateFolder">): string {
  return join(stateFolder, "objects");
}

function fetchedFolder({ stateFolder }: ProvisionerOptions, { manifest }: Task): string {
  return join(stateFolder, "fetched", manifest.modelSha256);
}

function invalid(what: string): Error {
  return deviceProgramErrors.error("DEVICE_PROVISION_INVALID", `the coordinator sent ${what}`, {
    hint: "Its model folder changed while it runs, or it is not the coordinator it should be.",
  });
}
