// Base models: from Hugging Face folders and from tensors into the weights cache, and folders that must be refused.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import t from "tap";
import type { Gpt2Config } from "../../runtime/models/config.ts";
import { randomTensors, tensorShapes } from "../../runtime/models/families.ts";
import {
  baseModelFromTensors,
  openBaseModel,
  readBaseModelTensors,
  saveModelFolder,
} from "../../runtime/models/pretrained.ts";
import { readSafetensors } from "../../runtime/models/safetensors.ts";
import { writeSafetensors } from "../../runtime/models/safetensors-writer.ts";
import { type Float32Tensor, float32, type TensorBundle } from "../../runtime/tensor.ts";

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 11,
  positions: 6,
  hiddenSize: 8,
  layers: 2,
  heads: 2,
  innerSize: 12,
  layerNormEpsilon: 1e-5,
  padTokenId: 3,
};
const shared = resolve("..", "shared");
const skipShared = existsSync(shared) ? false : "no ../shared folder beside the project";

t.test("a saved model opens to the same tensors, each on a page of its own", async (t) => {
  const { folder, cacheFolder, tensors } = await savedModel(t.testdir());
  const model = await openBaseModel(folder, { cacheFolder });
  t.same(model.config, config);
  t.same([...model.weights.keys()].sort(), [...tensorShapes(config).keys()].sort());
  for (const { offsetBytes } of model.weights.values()) t.equal(offsetBytes % 4096, 0);
  t.same(await readBaseModelTensors(model), new Map([...tensors].sort(byName)));
});

t.test("the hash is that of the numbers, not of the file they came in", async (t) => {
  const root = t.testdir();
  const { folder, cacheFolder, tensors } = await savedModel(root);
  const { sha256 } = await openBaseModel(folder, { cacheFolder });
  const fromTensors = await baseModelFromTensors(config, tensors, {
    cacheFolder: join(root, "c2"),
  });
  t.equal(fromTensors.sha256, sha256, "from memory");

  await rewrite(folder, () => new Map([...tensors]));
  t.equal((await openBaseModel(folder, { cacheFolder })).sha256, sha256, "without the prefix");

  const wte = tensors.get("wte.weight") as Float32Tensor;
  await rewrite(folder, (stored) =>
    stored
      .set("lm_head.weight", wte)
      .set("transformer.h.0.attn.bias", float32([1, 1, 6, 6]))
      .set("transformer.h.0.attn.masked_bias", float32([], [-1e4])),
  );
  t.equal(
    (await openBaseModel(folder, { cacheFolder })).sha256,
    sha256,
    "with buffers and tied head",
  );

  const other = await baseModelFromTensors(config, randomTensors(config, 2), { cacheFolder });
  t.not(other.sha256, sha256, "other weights");
  const wider = { ...config, layerNormEpsilon: 1e-6 };
  const sameWeights = await baseModelFromTensors(wider, tensors, { cacheFolder });
  t.not(sameWeights.sha256, sha256, "another configuration");
});

t.test("float16 folders open to the rounded weights", async (t) => {
  const root = t.testdir();
  const folder = join(root, "model");
  const tensors = randomTensors(config, 1);
  await saveModelFolder(folder, config, tensors, { float16: true });
  const model = await openBaseModel(folder, { cacheFolder: join(root, "cache") });
  const opened = await readBaseModelTensors(model);
  for (const [name, { data }] of tensors) {
    const rounded = opened.get(name)?.data ?? new Float32Array();
    // Values stay under 0.125 (norms are 1, exact): half of binary16's spacing of 2^-14 there.
    t.ok(
      data.every((value, i) => Math.abs(value - (rounded[i] as number)) <= 2 ** -15),
      `${name} within half a step of float16`,
    );
  }
  t.equal(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")).torch_dtype, "float16");
});

t.test("the second open reuses the cache, and a changed folder is noticed", async (t) => {
  const { folder, cacheFolder } = await savedModel(t.testdir());
  const first = await openBaseModel(folder, { cacheFolder });
  const bytes = readFileSync(first.weightsFile);
  // A mark inside padding shows whether the file is written again.
  bytes.write("mark", (first.weights.get("h.0.attn.c_attn.bias")?.lengthBytes ?? 0) + 16);
  writeFileSync(first.weightsFile, bytes);
  const second = await openBaseModel(folder, { cacheFolder });
  t.same(second, first);
  t.ok(readFileSync(first.weightsFile).equals(bytes), "not written again");

  await saveModelFolder(folder, config, randomTensors(config, 2));
  t.not((await openBaseModel(folder, { cacheFolder })).sha256, first.sha256);
});

t.test("a damaged cache is built anew", async (t) => {
  const { folder, cacheFolder, tensors } = await savedModel(t.testdir());
  const { weightsFile, sha256 } = await openBaseModel(folder, { cacheFolder });
  const whole = readFileSync(weightsFile);
  const index = join(weightsFile, "..", "index.json");
  const wholeIndex = readFileSync(index);
  const editIndex = (change: object) => {
    const json = JSON.parse(readFileSync(index, "utf8"));
    Object.assign(json.tensors["ln_f.bias"], change);
    writeFileSync(index, JSON.stringify(json));
  };
  const damages = {
    "a short weights file": () => truncateSync(weightsFile, 100),
    "an index that is not JSON": () => writeFileSync(index, "{"),
    "an index of other weights": () => editIndex({ sha256: "f".repeat(64) }),
    "an index of other shapes": () => editIndex({ shape: [2, 4] }),
    "an index that points outside": () => editIndex({ offsetBytes: whole.length }),
  };
  for (const [title, damage] of Object.entries(damages)) {
    damage();
    const again = await openBaseModel(folder, { cacheFolder });
    t.equal(again.sha256, sha256, title);
    t.ok(readFileSync(weightsFile).equals(whole), `${title}: the weights are back`);
    t.ok(readFileSync(index).equals(wholeIndex), `${title}: the index is back`);
    t.same(await readBaseModelTensors(again), new Map([...tensors].sort(byName)));
  }
});

t.test("several opens at once agree and leave one copy", async (t) => {
  const { folder, cacheFolder } = await savedModel(t.testdir());
  const models = await Promise.all([1, 2, 3, 4].map(() => openBaseModel(folder, { cacheFolder })));
  for (const model of models) t.same(model, models[0]);
  t.same(readdirSync(cacheFolder).sort(), [models[0]?.sha256 ?? "", "sources"].sort());
});

t.test(
  "what a killed process left in the cache is removed, what another one builds is not",
  async (t) => {
    const { folder, cacheFolder } = await savedModel(t.testdir());
    for (const name of [".building-dead", ".building-alive"]) {
      mkdirSync(join(cacheFolder, name), { recursive: true });
      writeFileSync(join(cacheFolder, name, "weights.f32"), "part");
    }
    const longAgo = new Date(Date.now() - 2 * 3_600_000);
    utimesSync(join(cacheFolder, ".building-dead", "weights.f32"), longAgo, longAgo);
    await openBaseModel(folder, { cacheFolder });
    t.notOk(existsSync(join(cacheFolder, ".building-dead")));
    t.ok(existsSync(join(cacheFolder, ".building-alive")));
  },
);

t.test("random weights follow GPT-2's initialisation and only the seed", async (t) => {
  const cacheFolder = t.testdir();
  const large = { ...config, vocabSize: 500, hiddenSize: 64, innerSize: 256, layers: 8 };
  const tensors = randomTensors(large, 5);
  const hash = async (weights: TensorBundle<Float32Tensor>) =>
    (await baseModelFromTensors(large, weights, { cacheFolder })).sha256;
  t.equal(await hash(randomTensors(large, 5)), await hash(tensors));
  t.not(await hash(randomTensors(large, 6)), await hash(tensors));
  const deviation = (name: string) => {
    const { data } = tensors.get(name) as Float32Tensor;
    return Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length);
  };
  // 16,384 draws or more: the sample deviation is within 4 / sqrt(2 n) = 2.3% in all but 1 of 16,000 cases.
  for (const name of ["wte.weight", "h.0.attn.c_attn.weight", "h.7.mlp.c_fc.weight"]) {
    t.ok(Math.abs(deviation(name) / 0.02 - 1) < 0.023, name);
  }
  // Residual projections: 0.02 / sqrt(2 * 8 layers) = 0.005.
  t.ok(Math.abs(deviation("h.3.mlp.c_proj.weight") / 0.005 - 1) < 0.023, "residual projection");
  t.ok(tensors.get("h.1.ln_2.weight")?.data.every((value) => value === 1));
  t.ok(tensors.get("h.1.mlp.c_fc.bias")?.data.every((value) => value === 0));
});

const refusals: readonly {
  readonly title: string;
  readonly code: string;
  readonly message: RegExp;
  readonly config?: Readonly<Record<string, unknown>>;
  readonly change?: (stored: Map<string, Float32Tensor>) => void;
}[] = [
  ...Object.entries({
    model_type: "bert",
    activation_function: "relu",
    scale_attn_weights: false,
    scale_attn_by_inverse_layer_idx: true,
    reorder_and_upcast_attn: true,
    add_cross_attention: true,
    tie_word_embeddings: false,
    quantization_config: { bits: 4 },
    n_head: 3,
  }).map(([field, value]) => ({
    title: `${field} ${JSON.stringify(value)}`,
    code: "MODEL_UNSUPPORTED",
    message: new RegExp(
      `config\\.json: .*${field}.*(${JSON.stringify(value).slice(1, -1)}|expected)`,
    ),
    config: { [field]: value },
  })),
  {
    title: "a configuration without layers",
    code: "MODEL_FOLDER_INVALID",
    message: /config\.json: n_layer/,
    config: { n_layer: undefined },
  },
  {
    title: "a missing tensor",
    code: "MODEL_TENSOR_MISSING",
    message: /h\.1\.mlp\.c_fc\.weight, expected with shape \[8, 12\]/,
    change: (stored) => stored.delete("transformer.h.1.mlp.c_fc.weight"),
  },
  {
    title: "a linear weight stored [out, in]",
    code: "MODEL_TENSOR_SHAPE",
    message: /h\.0\.attn\.c_attn\.weight has shape \[24, 8\], expected \[8, 24\]/,
    change: (stored) => stored.set("transformer.h.0.attn.c_attn.weight", float32([24, 8])),
  },
  {
    title: "a value that is not finite",
    code: "MODEL_TENSOR_INVALID",
    message: /ln_f\.bias holds NaN at element 2/,
    change: (stored) =>
      stored.set("transformer.ln_f.bias", float32([8], [0, 1, Number.NaN, 0, 0, 0, 0, 0])),
  },
  {
    title: "a head that is not tied",
    code: "MODEL_UNSUPPORTED",
    message: /lm_head\.weight differs/,
    change: (stored) => stored.set("lm_head.weight", float32([11, 8])),
  },
  {
    title: "layers that config.json does not count",
    code: "MODEL_UNSUPPORTED",
    message: /h\.2\.ln_1\.weight/,
    change: (stored) => stored.set("transformer.h.2.ln_1.weight", float32([8])),
  },
  {
    title: "a tensor under two names",
    code: "MODEL_FOLDER_INVALID",
    message: /wpe\.weight both/,
    change: (stored) => stored.set("wpe.weight", float32([6, 8])),
  },
];
t.test("folders that Trifold does not compute are refused by file, field or tensor", async (t) => {
  const root = t.testdir();
  for (const refusal of refusals) {
    const { folder, cacheFolder } = await savedModel(join(root, refusal.title.replace(/\W/g, "-")));
    const file = join(folder, "config.json");
    const json = JSON.parse(readFileSync(file, "utf8"));
    writeFileSync(file, JSON.stringify({ ...json, ...refusal.config }));
    await rewrite(folder, (stored) => {
      refusal.change?.(stored);
      return stored;
    });
    const { title, code, message } = refusal;
    await t.rejects(openBaseModel(folder, { cacheFolder }), { code, message }, title);
    const left = existsSync(cacheFolder) ? readdirSync(cacheFolder) : [];
    t.same(
      left.filter((name) => name !== "sources"),
      [],
      `${title}: the cache stays empty`,
    );
  }
});

t.test("absent and broken files of a folder are named", async (t) => {
  const root = t.testdir({
    empty: {},
    list: { "config.json": "[1]" },
    text: { "config.json": "{" },
  });
  const cacheFolder = join(root, "cache");
  for (const name of ["absent", "empty", "list", "text"]) {
    const failing = openBaseModel(join(root, name), { cacheFolder });
    await t.rejects(failing, { code: "MODEL_FOLDER_INVALID", message: /config\.json/ }, name);
  }
  const { folder } = await savedModel(root);
  const weights = join(folder, "model.safetensors");
  truncateSync(weights, readFileSync(weights).length - 1);
  const truncated = openBaseModel(folder, { cacheFolder });
  await t.rejects(truncated, { code: "MODEL_FILE_TRUNCATED", message: /model\.safetensors/ });
});

t.test("tensors in memory are checked like those of a file", async (t) => {
  const options = { cacheFolder: t.testdir() };
  const changed = (name: string, tensor?: Float32Tensor) => {
    const tensors = new Map(randomTensors(config, 1));
    tensors.delete(name);
    if (tensor !== undefined) tensors.set(name, tensor);
    return baseModelFromTensors(config, tensors, options);
  };
  await t.rejects(changed("ln_f.bias"), { code: "MODEL_TENSOR_MISSING", message: /ln_f\.bias/ });
  await t.rejects(changed("ln_f.bias", float32([7])), { code: "MODEL_TENSOR_SHAPE" });
  await t.rejects(changed("ln_f.bias", float32([8], new Float32Array(7))), {
    code: "MODEL_TENSOR_SHAPE",
  });
  const infinite = float32([8], new Float32Array(8).fill(Number.NEGATIVE_INFINITY));
  await t.rejects(changed("ln_f.bias", infinite), { code: "MODEL_TENSOR_INVALID" });
});

t.test("the padding id is one that the vocabulary holds", async (t) => {
  const { folder, cacheFolder } = await savedModel(t.testdir());
  const file = join(folder, "config.json");
  const json = JSON.parse(readFileSync(file, "utf8"));
  const padTokenId = async (pad: unknown, eos: unknown) => {
    writeFileSync(file, JSON.stringify({ ...json, pad_token_id: pad, eos_token_id: eos }));
    return (await openBaseModel(folder, { cacheFolder })).config.padTokenId;
  };
  t.equal(await padTokenId(4, 5), 4);
  t.equal(await padTokenId(null, 5), 5);
  t.equal(await padTokenId(undefined, [6, 7]), 6);
  t.equal(await padTokenId(-1, 50_256), 0);
});

t.test("a reference model made by PyTorch opens", { skip: skipShared }, async (t) => {
  const model = await openBaseModel(join(shared, "reference", "gpt2-classification"), {
    cacheFolder: t.testdir(),
  });
  t.match(model.config, { vocabSize: 97, hiddenSize: 48, layers: 3, innerSize: 192 });
  t.equal(model.weights.size, 40);
});

async function savedModel(root: string) {
  const folder = join(root, "model");
  const tensors = randomTensors(config, 1);
  await saveModelFolder(folder, config, tensors);
  return { folder, cacheFolder: join(root, "cache"), tensors };
}

/** Writes model.safetensors again with tensors changed. */
async function rewrite(
  folder: string,
  change: (stored: Map<string, Float32Tensor>) => TensorBundle<Float32Tensor>,
): Promise<void> {
  const file = join(folder, "model.safetensors");
  const source = await readSafetensors(file);
  const stored = new Map<string, Float32Tensor>();
  for (const name of source.tensors.keys()) stored.set(name, await source.readFloat32(name));
  await writeSafetensors(file, change(stored));
}

function byName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}
