// Weights on their way from a Hugging Face folder to the float32 file: shards, chunks, imported folders, and
// everything that must be refused without a trace.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { LlamaConfig } from "../../runtime/models/config.ts";
import { randomTensors } from "../../runtime/models/families.ts";
import {
  importModel,
  openBaseModel,
  readBaseModelTensors,
  saveModelFolder,
} from "../../runtime/models/pretrained.ts";
import { readSafetensors } from "../../runtime/models/safetensors.ts";
import { writeSafetensors } from "../../runtime/models/safetensors-writer.ts";
import { type Float32Tensor, float32 } from "../../runtime/tensor.ts";

const config: LlamaConfig = {
  family: "llama",
  vocabSize: 11,
  positions: 6,
  hiddenSize: 8,
  layers: 2,
  heads: 2,
  keyValueHeads: 1,
  headSize: 4,
  innerSize: 12,
  rmsNormEpsilon: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  attentionBias: false,
  outputBias: false,
  feedForwardBias: false,
  queryKeyNorm: false,
  tiedEmbedding: false,
  padTokenId: 3,
};
const head = "lm_head.weight";
const query = "model.layers.1.self_attn.q_proj.weight";

t.test("shards open to what the single file opens to, also through links", async (t) => {
  const root = t.testdir();
  const cacheFolder = join(root, "cache");
  const whole = savedModel(join(root, "whole"));
  const { sha256, weights } = await openBaseModel(await whole, { cacheFolder });
  t.ok(weights.has(head), "a head of its own");
  const folder = await shardedModel(join(root, "sharded"));
  t.equal((await openBaseModel(folder, { cacheFolder })).sha256, sha256);
  // As Hugging Face's own cache lays snapshots out.
  const blob = join(root, "blob");
  renameSync(join(folder, "b.safetensors"), blob);
  symlinkSync(blob, join(folder, "b.safetensors"));
  t.equal((await openBaseModel(folder, { cacheFolder })).sha256, sha256);
});

t.test("a changed shard is noticed", async (t) => {
  const root = t.testdir();
  const cacheFolder = join(root, "cache");
  const folder = await shardedModel(join(root, "sharded"));
  const before = await openBaseModel(folder, { cacheFolder });
  await rewrite(join(folder, "b.safetensors"), (stored) => stored.set(head, float32([11, 8])));
  t.not((await openBaseModel(folder, { cacheFolder })).sha256, before.sha256);
});

interface Fault {
  readonly title: string;
  readonly code: string;
  readonly message: RegExp;
  readonly change: (folder: string) => void | Promise<void>;
}

const index = "model.safetensors.index.json";
const editIndex = (edit: (places: Record<string, unknown>) => void) => (folder: string) => {
  const json = JSON.parse(readFileSync(join(folder, index), "utf8"));
  edit(json.weight_map);
  writeFileSync(join(folder, index), JSON.stringify(json));
};
const editShard = (change: (stored: Map<string, Float32Tensor>) => unknown) => (folder: string) =>
  rewrite(join(folder, "b.safetensors"), change);

const faults: readonly Fault[] = [
  ...[
    "../a.safetensors",
    "/etc/a.safetensors",
    "sub/a.safetensors",
    "..\\a.safetensors",
    "a.bin",
  ].map((place) => ({
    title: `a shard called ${place}`,
    code: "MODEL_FOLDER_INVALID",
    message: /index\.json places tensor lm_head\.weight in ".*expected a file of the folder/,
    change: editIndex((places) => {
      places[head] = place;
    }),
  })),
  {
    title: "an index without places",
    code: "MODEL_FOLDER_INVALID",
    message: /index\.json has no weight_map/,
    change: (folder) => writeFileSync(join(folder, index), '{"metadata":{}}'),
  },
  {
    title: "an empty index",
    code: "MODEL_FOLDER_INVALID",
    message: /index\.json lists no tensor/,
    change: (folder) => writeFileSync(join(folder, index), '{"weight_map":{}}'),
  },
  {
    title: "an index that is not JSON",
    code: "MODEL_FOLDER_INVALID",
    message: /index\.json is not JSON/,
    change: (folder) => writeFileSync(join(folder, index), "{"),
  },
  {
    title: "a missing shard",
    code: "MODEL_FOLDER_INVALID",
    message: /b\.safetensors cannot be opened/,
    change: (folder) => rmSync(join(folder, "b.safetensors")),
  },
  {
    title: "a truncated shard",
    code: "MODEL_FILE_TRUNCATED",
    message: /b\.safetensors is cut off/,
    change: (folder) => truncateSync(join(folder, "b.safetensors"), 2000),
  },
  {
    title: "a shard without a tensor that the index places in it",
    code: "MODEL_TENSOR_MISSING",
    message: /b\.safetensors has no tensor lm_head\.weight, .*index\.json says/,
    change: editShard((stored) => stored.delete(head)),
  },
  {
    title: "a tensor that the index does not place",
    code: "MODEL_FOLDER_INVALID",
    message: /index\.json does not place tensor extra in b\.safetensors/,
    change: editShard((stored) => stored.set("extra", float32([1]))),
  },
  {
    title: "a tensor in two shards",
    code: "MODEL_FOLDER_INVALID",
    message: /does not place tensor model\.embed_tokens\.weight in b\.safetensors/,
    change: editShard((stored) => stored.set("model.embed_tokens.weight", float32([11, 8]))),
  },
  {
    title: "a tensor that neither index nor shards have",
    code: "MODEL_TENSOR_MISSING",
    message: /index\.json has no tensor layers\.1\.self_attn\.q_proj\.weight, expected .*\[8, 8\]/,
    change: async (folder) => {
      await editShard((stored) => stored.delete(query))(folder);
      editIndex((places) => delete places[query])(folder);
    },
  },
  {
    title: "a shape that config.json does not imply",
    code: "MODEL_TENSOR_SHAPE",
    message: /b\.safetensors: tensor .*q_proj\.weight has shape \[8, 4\], expected \[8, 8\]/,
    change: editShard((stored) => stored.set(query, float32([8, 4]))),
  },
  {
    title: "a weight that is not a number",
    code: "MODEL_TENSOR_INVALID",
    message: /b\.safetensors: tensor .*q_proj\.weight holds NaN at element 9/,
    change: editShard((stored) => {
      const data = new Float32Array(64);
      data[9] = Number.NaN;
      stored.set(query, float32([8, 8], data));
    }),
  },
];
const alien: readonly Fault[] = [
  "lm_head.bias",
  "model.layers.0.mlp.up_proj.bias",
  "model.layers.0.self_attn.q_norm.weight",
  "model.layers.2.mlp.up_proj.weight",
].map((name) => ({
  title: `a tensor ${name}`,
  code: "MODEL_UNSUPPORTED",
  message: /b\.safetensors: tensor .* is not part of the model that config\.json describes/,
  change: async (folder) => {
    await editShard((stored) => stored.set(name, float32([4])))(folder);
    editIndex((places) => {
      places[name] = "b.safetensors";
    })(folder);
  },
}));

t.test("bad weights are refused by file and tensor, and nothing is left behind", async (t) => {
  const root = t.testdir();
  for (const [i, { title, code, message, change }] of [...faults, ...alien].entries()) {
    const folder = await shardedModel(join(root, `${i}`));
    await change(folder);
    const cacheFolder = join(root, `cache-${i}`);
    await t.rejects(openBaseModel(folder, { cacheFolder }), { code, message }, title);
    const cached = existsSync(cacheFolder) ? readdirSync(cacheFolder) : [];
    t.same(
      cached.filter((name) => name !== "sources"),
      [],
      `${title}: the cache stays empty`,
    );
    const out = join(root, `out-${i}`, "model");
    await t.rejects(importModel(folder, out), { code, message }, `${title}: import`);
    const made = existsSync(join(out, "..")) ? readdirSync(join(out, "..")) : [];
    t.same(made, [], `${title}: nothing beside the output`);
  }
});

t.test("a large tensor is read in bounded chunks to the values of the whole", async (t) => {
  const file = join(t.testdir(), "large.safetensors");
  // Two whole chunks of 2^20 values and a short one.
  const count = 2 ** 21 + 5;
  const values = Float32Array.from({ length: count }, (_, i) => i - 2 ** 20);
  await writeSafetensors(file, new Map([["x", float32([count], values)]]));
  const source = await readSafetensors(file);
  const lengths: number[] = [];
  let place = 0;
  let isEqual = true;
  for await (const chunk of source.readChunks("x")) {
    lengths.push(chunk.length);
    isEqual &&= chunk.every((value, i) => value === values[place + i]);
    place += chunk.length;
  }
  t.same(lengths, [2 ** 20, 2 ** 20, 5]);
  t.ok(isEqual);
});

t.test("a wrong value far inside a large tensor is named with its place", async (t) => {
  const root = t.testdir();
  const folder = join(root, "model");
  const large = { ...config, vocabSize: 150_000, tiedEmbedding: true };
  await saveModelFolder(folder, large, randomTensors(large, 1), { float16: true });
  const file = join(folder, "model.safetensors");
  const { offsetBytes = 0 } =
    (await readSafetensors(file)).tensors.get("model.embed_tokens.weight") ?? {};
  const bytes = readFileSync(file);
  // binary16 of infinity, in the second chunk.
  bytes.writeUInt16LE(0x7c00, offsetBytes + 2 * (2 ** 20 + 77));
  writeFileSync(file, bytes);
  const failing = openBaseModel(folder, { cacheFolder: join(root, "cache") });
  await t.rejects(failing, {
    code: "MODEL_TENSOR_INVALID",
    message: new RegExp(`embed_tokens\\.weight holds Infinity at element ${2 ** 20 + 77}$`),
  });
});

t.test("a tied head is compared with the embedding chunk by chunk", async (t) => {
  const root = t.testdir();
  const tied = { ...config, vocabSize: 140_000, tiedEmbedding: true };
  const tensors = randomTensors(tied, 1);
  const folder = join(root, "model");
  const embedding = tensors.get("embed_tokens.weight") as Float32Tensor;
  await saveModelFolder(folder, tied, new Map([...tensors, [head, embedding]]));
  const { weights } = await openBaseModel(folder, { cacheFolder: join(root, "cache") });
  t.notOk(weights.has(head), "an equal copy is not kept");
  const data = embedding.data.slice();
  data[2 ** 20 + 3] = 7;
  await saveModelFolder(folder, tied, new Map([...tensors, [head, { ...embedding, data }]]));
  await t.rejects(openBaseModel(folder, { cacheFolder: join(root, "cache") }), {
    code: "MODEL_UNSUPPORTED",
    message: /lm_head\.weight differs from embed_tokens\.weight/,
  });
});

t.test("an imported model opens as the folder that it came from, without the cache", async (t) => {
  const root = t.testdir();
  const cacheFolder = join(root, "cache");
  const folder = await shardedModel(join(root, "sharded"));
  writeFileSync(join(folder, "tokenizer.json"), "{}");
  const out = join(root, "imported");
  mkdirSync(out);
  const made = await importModel(folder, out);
  t.same(readdirSync(out).sort(), ["config.json", "index.json", "tokenizer.json", "weights.f32"]);
  const opened = await openBaseModel(out, { cacheFolder });
  t.same(opened, made);
  t.equal(opened.weightsFile, join(out, "weights.f32"));
  t.notOk(existsSync(cacheFolder), "nothing is cached");
  const twice = importModel(out, join(root, "again"));
  await t.rejects(twice, { code: "MODEL_FOLDER_INVALID", message: /is an imported model already/ });
  const original = await openBaseModel(folder, { cacheFolder });
  t.equal(opened.sha256, original.sha256);
  t.same(await readBaseModelTensors(opened), await readBaseModelTensors(original));
});

t.test("a damaged imported model is refused by its file", async (t) => {
  const root = t.testdir();
  const out = join(root, "imported");
  await importModel(await shardedModel(join(root, "sharded")), out);
  const files = ["weights.f32", "index.json", "config.json"] as const;
  for (const name of files) copyFileSync(join(out, name), join(root, name));
  const edit = (name: string, from: RegExp, to: string) => () => {
    writeFileSync(join(out, name), readFileSync(join(out, name), "utf8").replace(from, to));
  };
  const damages: readonly (readonly [code: string, message: RegExp, damage: () => void])[] = [
    [
      "MODEL_FILE_TRUNCATED",
      /weights\.f32 holds 5000 bytes, index\.json says \d+/,
      () => truncateSync(join(out, "weights.f32"), 5000),
    ],
    ["MODEL_FOLDER_INVALID", /index\.json is not JSON/, edit("index.json", /^\{/, "")],
    ["MODEL_FOLDER_INVALID", /index\.json is not the index/, edit("index.json", /: 1,/, ": 2,")],
    [
      "MODEL_FOLDER_INVALID",
      /index\.json does not fit the model of config\.json/,
      edit("config.json", /"vocab_size": 11/, '"vocab_size": 12'),
    ],
    ["MODEL_FOLDER_INVALID", /config\.json is not JSON/, edit("config.json", /^\{/, "")],
  ];
  for (const [code, message, damage] of damages) {
    for (const name of files) copyFileSync(join(root, name), join(out, name));
    damage();
    await t.rejects(openBaseModel(out, { cacheFolder: join(root, "cache") }), { code, message });
  }
});

async function savedModel(folder: string): Promise<string> {
  await saveModelFolder(folder, config, randomTensors(config, 1));
  return folder;
}

/** The same model in two files: the embedding alone, and everything else. */
async function shardedModel(folder: string): Promise<string> {
  await savedModel(folder);
  const single = join(folder, "model.safetensors");
  const source = await readSafetensors(single);
  const shards = { "a.safetensors": new Map(), "b.safetensors": new Map() };
  const places: Record<string, string> = {};
  for (const name of source.tensors.keys()) {
    const shard = name.includes("embed_tokens") ? "a.safetensors" : "b.safetensors";
    shards[shard].set(name, await source.readFloat32(name));
    places[name] = shard;
  }
  for (const [name, tensors] of Object.entries(shards)) {
    await writeSafetensors(join(folder, name), tensors);
  }
  writeFileSync(join(folder, index), JSON.stringify({ metadata: {}, weight_map: places }));
  rmSync(single);
  return folder;
}

/** Writes a safetensors file again with tensors changed. */
async function rewrite(
  file: string,
  change: (stored: Map<string, Float32Tensor>) => unknown,
): Promise<void> {
  const source = await readSafetensors(file);
  const stored = new Map<string, Float32Tensor>();
  for (const name of source.tensors.keys()) stored.set(name, await source.readFloat32(name));
  change(stored);
  await writeSafetensors(file, stored);
}
