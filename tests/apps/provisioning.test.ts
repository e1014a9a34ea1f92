// Devices that were given no model: what they fetch, what they keep, and what they make of a coordinator that lies.
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { prepareTask } from "../../apps/coordinator/prepared-task.ts";
import { createSupplies, type Supplies } from "../../apps/coordinator/supplies.ts";
import { readTaskFile } from "../../apps/coordinator/task-file.ts";
import { fetchObjects, type WantedPiece } from "../../apps/device/object-store.ts";
import {
  connectMqtt,
  coordinatorLinkTopics,
  createLink,
  type Envelope,
  type Reply,
  startBroker,
  topicsOf,
  watchPresence,
} from "../../broker/index.ts";
import { builtInProtocols } from "../../protocols/index.ts";
import {
  type BaseModel,
  openTensorFiles,
  quantiseModel,
  tensorBytes,
  tensorHashes,
} from "../../runtime/index.ts";
import { startTrifold } from "./program.ts";
import {
  federate,
  frameworksOf,
  makeWorld,
  type SmallDevice,
  smallConfig,
  writeDevice,
  writeTask,
} from "./small-federation.ts";

const folder = t.testdir();
const world = await makeWorld(folder);
const fullVersion = builtInProtocols.find(({ name }) => name === "full")?.version as number;

/** sha256 of what a device keeps, by the files' content. */
function keptBy(run: string, id: string): string[] {
  const objects = join(`${run}-devices`, `${id}-state`, "objects");
  const names = readdirSync(objects).sort();
  t.same(
    names.map((name) => sha256(readFileSync(join(objects, name)))),
    names,
    `${id}: every file is what its name says`,
  );
  return names;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function hashesWhere(task: string, wanted: (name: string) => boolean): Promise<string[]> {
  const { model } = await prepareTask(await readTaskFile(task), world.cacheFolder);
  const tensors = [...(await tensorHashes(model))].filter(([name]) => wanted(name));
  const tokenizer = sha256(readFileSync(join(world.modelFolder, "tokenizer.json")));
  return [...new Set([...tensors.map(([, hash]) => hash), tokenizer])].sort();
}

t.test(
  "bare devices train to the bits of those with the model, on what they need of it",
  async (t) => {
    const task = await writeTask(world, "bare", { cohort: { minimumDevices: 3 } });
    const devices: readonly SmallDevice[] = [
      { id: "a", framework: "full" },
      { id: "b", framework: "kd" },
      { id: "c", framework: "split" },
    ];
    const given = await federate(world, { task, run: join(folder, "given"), devices });
    const run = join(folder, "bare");
    const bare = devices.map((device) => ({ ...device, isBare: true }));
    const fetched = await federate(world, { task, run, devices: bare });
    t.same(frameworksOf(fetched), { a: "full", b: "kd", c: "split (cut 1)" });
    t.ok(fetched.adapter.equals(given.adapter), "the same adapter, byte for byte");
    const all = await hashesWhere(task, () => true);
    t.same(keptBy(run, "a"), all);
    t.same(keptBy(run, "b"), all);
    const front = await hashesWhere(task, (name) => /^(wte|wpe|h\.0)\./.test(name));
    t.same(keptBy(run, "c"), front, "split holds the embeddings and its one block");
    const reports = fetched.records.flatMap((record) => (record.kind === "report" ? [record] : []));
    const provisioned = (id: string) =>
      reports
        .filter(({ deviceId }) => deviceId === id)
        .map(({ report }) => report.provisioningBytes);
    const modelBytes = [...tensorBytes(smallConfig).values()].reduce(
      (sum, bytes) => sum + bytes,
      0,
    );
    const [first = 0, second] = provisioned("a");
    t.ok(first > modelBytes && first < 2 * modelBytes, `${first} bytes for ${modelBytes}`);
    t.equal(second, 0, "nothing is fetched again");
    t.ok((provisioned("c")[0] as number) < first - 2 * 4 * 32 * 64, "split fetches less");
    const traffic = (federated: typeof given) => {
      const sides = federated.records.map((record) =>
        record.kind === "report" && record.deviceId === "a"
          ? record.report.uplinkBytes + record.report.downlinkBytes
          : 0,
      );
      return sides.reduce((sum, bytes) => sum + bytes, 0);
    };
    const difference = Math.abs(traffic(fetched) - traffic(given));
    // Replies of before the first round are counted in the one case and not in the other.
    t.ok(difference < 2000, `rounds count no byte of it (${difference})`);
  },
);

t.test("a fetched model is quantised to the bytes of a given one", async (t) => {
  const task = await writeTask(world, "rounded");
  const { model } = await prepareTask(await readTaskFile(task), world.cacheFolder);
  const objects = join(folder, "bare-devices", "a-state", "objects");
  const hashes = await tensorHashes(model);
  const fetched = await openTensorFiles(model, hashes, objects);
  t.equal(fetched?.weights.size, model.weights.size);
  const files = await Promise.all(
    [model, fetched as BaseModel].map(async (one) => {
      const { quantised } = await quantiseModel(one, "int8");
      return readFileSync(quantised?.file as string);
    }),
  );
  t.ok(files[0]?.equals(files[1] as Buffer));
  const [first, second] = [...hashes.keys()];
  const swapped = new Map(hashes).set(first as string, hashes.get(second as string) as string);
  t.equal(await openTensorFiles(model, swapped, objects), undefined, "other hashes are refused");
});

t.test("a U-shaped split holds the last blocks too, and not the middle", async (t) => {
  const task = await writeTask(world, "u", {
    selection: { order: ["split"] },
    split: { uShape: true, tailLayers: 1, cutLayer: 1 },
    cohort: { minimumDevices: 1 },
  });
  const run = join(folder, "u");
  await federate(world, { task, run, devices: [{ id: "c", isBare: true }] });
  const outer = await hashesWhere(task, (name) => !/^h\.1\./.test(name));
  t.same(keptBy(run, "c"), outer);
});

t.test("a device that is killed while it fetches asks only for the rest", async (t) => {
  const task = await writeTask(world, "killed");
  const asked: string[] = [];
  let onHeld = () => {};
  const held = new Promise<void>((resolve) => {
    onHeld = resolve;
  });
  let isHolding = true;
  const station = await startScripted(t, { task, id: "a" }, async (request, supplies) => {
    if (request.kind === "model-piece") {
      asked.push(String(request.fields["sha256"]));
      if (isHolding && asked.length > 12) {
        onHeld();
        return new Promise(() => {});
      }
    }
    return (await supplies.answer(request)) as Reply;
  });
  const first = startTrifold(station.args, station.environment);
  await held;
  first.process.kill("SIGKILL");
  await first.finished;
  const objects = join(station.state, "objects");
  // A file may be there as a whole and not yet have its name.
  const before = readdirSync(objects)
    .filter((name) => sha256(readFileSync(join(objects, name))) === name.slice(0, 64))
    .map((name) => name.slice(0, 64));
  t.ok(before.length > 0 && before.length <= 12, `${before.length} files were there`);
  isHolding = false;
  asked.length = 0;
  const second = startTrifold(station.args, station.environment);
  await station.provided;
  second.process.kill("SIGKILL");
  await second.finished;
  const all = await hashesWhere(task, () => true);
  t.same(readdirSync(objects).sort(), all);
  const missing = all.filter((name) => !before.includes(name));
  t.same(asked.sort(), missing.sort(), "each missing file once, no other");
});

t.test("bytes that are not the model's are refused, and the device ends", async (t) => {
  const task = await writeTask(world, "lies");
  const lies: Readonly<Record<string, (request: Envelope, reply: Reply) => Reply>> = {
    "other bytes": (request, reply) => {
      const bytes = reply.blobs?.get("bytes");
      if (!bytes) return reply;
      const { kind } = request;
      return { kind, blobs: new Map([["bytes", bytes.map((byte) => byte ^ 1)]]) };
    },
    "fewer bytes": (request, reply) => {
      if (request.kind !== "model-piece") return reply;
      return { kind: "model-piece", blobs: new Map([["bytes", new Uint8Array(3)]]) };
    },
    "another list": (request, reply) => {
      const list = Buffer.from(reply.blobs?.get("parts") ?? []).toString();
      if (request.kind !== "model-parts") return reply;
      const other = list.replace(/"wte.weight":"[0-9a-f]{8}/, '"wte.weight":"00000000');
      return { kind: "model-parts", blobs: new Map([["parts", Buffer.from(other)]]) };
    },
  };
  for (const [number, [title, lie]] of Object.entries(lies).entries()) {
    const id = `lied-to-${number}`;
    const station = await startScripted(t, { task, id }, async (request, supplies) =>
      lie(request, (await supplies.answer(request)) as Reply),
    );
    const { status, stderr } = await startTrifold(station.args, station.environment).finished;
    t.match(stderr, /error DEVICE_PROVISION_INVALID/, title);
    t.equal(status, 1, title);
    const kept = objectsOf(station.state).filter((name) => !name.endsWith(".part"));
    t.same(kept, [], `${title}: nothing is kept`);
  }
});

t.test("a fetch goes on behind the last piece, and a spoilt part is fetched again", async (t) => {
  const objects = t.testdir();
  const content = randomBytes(5 * 2 ** 20 + 17);
  const wanted = { sha256: sha256(content), bytes: content.length };
  const asked: number[] = [];
  const fetchAll = (limit: number, signal = new AbortController().signal) =>
    fetchObjects([wanted], {
      folder: objects,
      owner: "a",
      signal,
      askPiece: async ({ offsetBytes, lengthBytes }: WantedPiece) => {
        if (asked.length >= limit) throw new Error("the link is gone");
        asked.push(offsetBytes);
        return content.subarray(offsetBytes, offsetBytes + lengthBytes);
      },
    });
  const MiB = 2 ** 20;
  await t.rejects(fetchAll(1), { message: "the link is gone" });
  t.same(asked.splice(0), [0]);
  await fetchAll(10);
  t.same(asked.splice(0), [2 * MiB, 4 * MiB]);
  t.same(readdirSync(objects), [wanted.sha256]);
  await fetchAll(10);
  t.same(asked, [], "it is there");
  const other = randomBytes(3 * MiB);
  const spoilt = { sha256: sha256(other), bytes: other.length };
  writeFileSync(join(objects, `${spoilt.sha256}.a.part`), randomBytes(MiB));
  const offsets: number[] = [];
  await fetchObjects([spoilt], {
    folder: objects,
    owner: "a",
    signal: new AbortController().signal,
    askPiece: async ({ offsetBytes, lengthBytes }) => {
      offsets.push(offsetBytes);
      return other.subarray(offsetBytes, offsetBytes + lengthBytes);
    },
  });
  t.same(offsets, [MiB, 0, 2 * MiB]);
  t.ok(readFileSync(join(objects, spoilt.sha256)).equals(other));
});

t.test("what the disk has no room for is not asked for", async (t) => {
  const huge = { sha256: "0".repeat(64), bytes: 2 ** 52 };
  const fetching = fetchObjects([huge], {
    folder: t.testdir(),
    owner: "a",
    signal: new AbortController().signal,
    askPiece: () => t.fail("nothing may be asked") as never,
  });
  await t.rejects(fetching, { code: "DEVICE_STORE_FULL" });
});

function objectsOf(state: string): string[] {
  try {
    return readdirSync(join(state, "objects"));
  } catch {
    return [];
  }
}

/** A coordinator that prepares one device for `full`, its answers to the device as the test likes. */
async function startScripted(
  t: Test,
  { task: taskFile, id }: { readonly task: string; readonly id: string },
  answer: (request: Envelope, supplies: Supplies) => Promise<Reply>,
) {
  const log = () => {};
  const prepared = await prepareTask(await readTaskFile(taskFile), world.cacheFolder);
  const supplies = createSupplies(prepared);
  const broker = await startBroker({ log });
  const transport = await connectMqtt({ url: broker.url, clientId: "coordinator", log });
  const federation = "main";
  const link = await createLink({
    transport,
    federation,
    self: "coordinator",
    peer: id,
    ...coordinatorLinkTopics(federation, id),
    onRequest: (request) => answer(request, supplies),
    log,
  });
  const stop = new AbortController();
  const { signal } = stop;
  const ask = (kind: string, fields = {}) => link.request({ kind, fields }, { signal });
  let onProvided = () => {};
  const provided = new Promise<void>((resolve) => {
    onProvided = resolve;
  });
  const bringIn = async () => {
    await ask("prepare", { task: prepared.task });
    await ask("provide", { protocol: "full", protocolVersion: fullVersion });
    onProvided();
  };
  const seen = new Set<string>();
  const onChange = (_: string, status: { state: string; instance: string } | undefined) => {
    if (status?.state !== "online" || seen.has(status.instance)) return;
    seen.add(status.instance);
    bringIn().catch((error: Error) => {
      if (signal.aborted) return;
      const code = (error as { code?: string }).code ?? "X";
      void ask("refused", { code, message: error.message }).catch(() => {});
    });
  };
  const watch = await watchPresence({ transport, topics: topicsOf(federation), onChange, log });
  t.teardown(async () => {
    stop.abort();
    watch.close();
    await link.close();
    await transport.close();
    await broker.close();
  });
  const files = await writeDevice(world, { id }, { task: taskFile, run: join(folder, "scripted") });
  const { data, config, state } = files;
  const flags = { broker: broker.url, id, data, config, state };
  const args = [
    "device",
    ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]),
  ];
  return { args, environment: { TRIFOLD_CACHE: world.cacheFolder }, state, provided };
}
