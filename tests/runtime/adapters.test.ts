// Adapters in the PEFT format and tokenizers: what is written, what is read back, what is refused.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import t from "tap";
import {
  type Adapter,
  checkAdapterFits,
  loadAdapter,
  saveAdapter,
} from "../../runtime/models/adapters.ts";
import type { Gpt2Config } from "../../runtime/models/config.ts";
import {
  type HeadSettings,
  initialParameters,
  type LoraSettings,
  loraScale,
  targetedModules,
} from "../../runtime/models/lora.ts";
import { readSafetensors } from "../../runtime/models/safetensors.ts";
import { writeSafetensors } from "../../runtime/models/safetensors-writer.ts";
import { openTokenizer } from "../../runtime/models/tokenizer.ts";
import { type Float32Tensor, float32 } from "../../runtime/tensor.ts";

const config: Gpt2Config = {
  family: "gpt2",
  vocabSize: 11,
  positions: 6,
  hiddenSize: 8,
  layers: 2,
  heads: 2,
  innerSize: 12,
  layerNormEpsilon: 1e-5,
  padTokenId: 0,
};
const lora = { rank: 2, alpha: 4, targets: ["c_attn", "mlp.c_proj"] };
const shared = resolve("..", "shared");
const skipShared = existsSync(shared) ? false : "no ../shared folder beside the project";

function newAdapter(head: HeadSettings): Adapter {
  const parameters = initialParameters(config, lora, head, 1);
  return { lora, head, parameters, baseModelName: "gpt2-small" };
}
const classifier: Adapter = {
  ...newAdapter({ kind: "classification", classes: 3 }),
  labels: ["no", "yes", 'a "quoted" é'],
  baseModelSha256: "ab".repeat(32),
};

t.test("an adapter folder has PEFT's files, names and fields", async (t) => {
  const folder = join(t.testdir(), "adapter");
  await saveAdapter(folder, classifier);
  t.same(readdirSync(folder).sort(), [
    "adapter_config.json",
    "adapter_model.safetensors",
    "trifold.json",
  ]);
  const source = await readSafetensors(join(folder, "adapter_model.safetensors"));
  // PyTorch's loader asks for this mark.
  t.same(source.metadata, { format: "pt" });
  const shapes = Object.fromEntries([...source.tensors].map(([name, { shape }]) => [name, shape]));
  const layer = (index: number) => ({
    [`base_model.model.transformer.h.${index}.attn.c_attn.lora_A.weight`]: [2, 8],
    [`base_model.model.transformer.h.${index}.attn.c_attn.lora_B.weight`]: [24, 2],
    [`base_model.model.transformer.h.${index}.mlp.c_proj.lora_A.weight`]: [2, 12],
    [`base_model.model.transformer.h.${index}.mlp.c_proj.lora_B.weight`]: [8, 2],
  });
  t.same(shapes, { ...layer(0), ...layer(1), "base_model.model.score.weight": [3, 8] });
  const peft = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
  t.match(peft, {
    peft_type: "LORA",
    task_type: "SEQ_CLS",
    r: 2,
    lora_alpha: 4,
    target_modules: ["c_attn", "mlp.c_proj"],
    modules_to_save: ["score"],
    fan_in_fan_out: true,
    bias: "none",
    inference_mode: true,
    base_model_name_or_path: "gpt2-small",
  });
});

t.test("adapters come back, and saving them again gives the same bytes", async (t) => {
  const root = t.testdir();
  for (const adapter of [classifier, newAdapter({ kind: "lm" })]) {
    const [one, two] = [join(root, adapter.head.kind, "1"), join(root, adapter.head.kind, "2")];
    await saveAdapter(one, adapter);
    const loaded = await loadAdapter(one);
    t.same(loaded, {
      ...adapter,
      parameters: new Map([...adapter.parameters].sort(([a], [b]) => (a < b ? -1 : 1))),
    });
    checkAdapterFits(loaded, config);
    await saveAdapter(two, loaded);
    for (const name of readdirSync(one)) {
      t.ok(readFileSync(join(one, name)).equals(readFileSync(join(two, name))), name);
    }
  }
});

t.test("every setting comes back, and saving it again gives the same three files", async (t) => {
  const root = t.testdir();
  const settings: readonly LoraSettings[] = [
    { ...lora, targets: ["mlp.c_proj", "c_attn"] },
    { ...lora, dropout: 0.1 },
    { ...lora, rsLora: true },
    { ...lora, layers: [1] },
    { ...lora, targets: ["all-linear"], dropout: 0.25, rsLora: true, layers: [1, 0] },
  ];
  for (const [index, one] of settings.entries()) {
    const head = { kind: "classification", classes: 3 } as const;
    const parameters = initialParameters(config, one, head, 1);
    const adapter = { ...classifier, lora: one, parameters };
    const [first, second] = [join(root, `${index}`, "1"), join(root, `${index}`, "2")];
    await saveAdapter(first, adapter);
    const loaded = await loadAdapter(first);
    t.same(loaded.lora, one);
    checkAdapterFits(loaded, config);
    await saveAdapter(second, loaded);
    for (const name of readdirSync(first)) {
      t.ok(readFileSync(join(first, name)).equals(readFileSync(join(second, name))), name);
    }
  }
});

t.test("PEFT's words for scale, layers and targets mean what they mean there", async (t) => {
  const folder = join(t.testdir(), "adapter");
  await saveAdapter(folder, newAdapter({ kind: "lm" }));
  const peft = {
    lora_dropout: 0.05,
    use_rslora: true,
    layers_to_transform: 1,
    target_modules: "all-linear",
  };
  await editJson(folder, "adapter_config.json", peft);
  const { lora: loaded } = await loadAdapter(folder);
  t.same(loaded, {
    rank: 2,
    alpha: 4,
    targets: ["all-linear"],
    dropout: 0.05,
    rsLora: true,
    layers: [1],
  });
  t.same(
    targetedModules(config, loaded).map(({ path }) => path),
    ["h.1.attn.c_attn", "h.1.attn.c_proj", "h.1.mlp.c_fc", "h.1.mlp.c_proj"],
  );
  // PEFT's `update_layer`: lora_alpha / r, with rsLoRA lora_alpha / sqrt(r).
  t.equal(loraScale({ rank: 16, alpha: 8, targets: [] }), 0.5);
  t.equal(loraScale({ rank: 16, alpha: 8, targets: [], rsLora: true }), 2);
  const beyond = { ...lora, layers: [0, 2] };
  const message = /block 2, the model has blocks 0 to 1/;
  t.throws(() => targetedModules(config, beyond), { code: "ADAPTER_INVALID", message });
});

t.test("weights that another library saved are saved again with the same bytes", async (t) => {
  const folder = join(t.testdir(), "adapter");
  await saveAdapter(folder, newAdapter({ kind: "lm" }));
  const [first, second] = ["adapter", "again"].map((name) => join(folder, "..", name));
  const file = join(first as string, "adapter_model.safetensors");
  writeFileSync(file, peftSafetensors(newAdapter({ kind: "lm" })));
  await saveAdapter(second as string, await loadAdapter(first as string));
  const again = readFileSync(join(second as string, "adapter_model.safetensors"));
  t.ok(again.equals(readFileSync(file)));
});

/**
 * An adapter as the safetensors library lays it out (`serialize` in its Rust source): the metadata first, tensors by
 * name, a compact header filled up with blanks to a multiple of 8.
 */
function peftSafetensors({ parameters }: Adapter): Buffer {
  const names = [...parameters.keys()].sort();
  let end = 0;
  const entries = names.map((name) => {
    const { shape, data } = parameters.get(name) as Float32Tensor;
    const start = end;
    end += data.byteLength;
    return `"${name}":{"dtype":"F32","shape":[${shape}],"data_offsets":[${start},${end}]}`;
  });
  let header = `{"__metadata__":{"format":"pt"},${entries.join(",")}}`;
  while (header.length % 8 > 0) header += " ";
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const bodies = names.map((name) => {
    const { data } = parameters.get(name) as Float32Tensor;
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  });
  return Buffer.concat([length, Buffer.from(header), ...bodies]);
}

t.test("an adapter that PEFT saved is read", async (t) => {
  const folder = join(t.testdir(), "adapter");
  await saveAdapter(folder, classifier);
  // As PEFT 0.15 writes it: every field, and no trifold.json.
  await editJson(folder, "adapter_config.json", {
    alpha_pattern: {},
    eva_config: null,
    exclude_modules: null,
    layer_replication: null,
    loftq_config: {},
    lora_bias: false,
    megatron_core: "megatron.core",
    modules_to_save: ["classifier", "score"],
    rank_pattern: {},
    use_dora: false,
    use_rslora: false,
  });
  await editJson(folder, "trifold.json", { labels: undefined, baseModelSha256: undefined });
  const loaded = await loadAdapter(folder);
  t.same(loaded.head, { kind: "classification", classes: 3 });
  t.notOk("labels" in loaded);
});

const refusals: readonly {
  readonly title: string;
  readonly message: RegExp;
  readonly peft?: object;
  readonly facts?: object;
  readonly change?: (stored: Map<string, Float32Tensor>) => void;
}[] = [
  { title: "another method", message: /peft_type is "IA3"/, peft: { peft_type: "IA3" } },
  { title: "DoRA", message: /use_dora is true, expected false/, peft: { use_dora: true } },
  { title: "no layer", message: /layers_to_transform/, peft: { layers_to_transform: [] } },
  { title: "dropping all", message: /lora_dropout/, peft: { lora_dropout: 1 } },
  { title: "trained biases", message: /bias is "all"/, peft: { bias: "all" } },
  { title: "ranks per layer", message: /rank_pattern/, peft: { rank_pattern: { c_attn: 4 } } },
  { title: "a changed base", message: /init_lora_weights/, peft: { init_lora_weights: "pissa" } },
  { title: "another task", message: /task_type/, peft: { task_type: "TOKEN_CLS" } },
  { title: "no rank", message: /r: /, peft: { r: 0 } },
  { title: "a pattern as target", message: /target_modules/, peft: { target_modules: ".*attn" } },
  { title: "a head that lm has not", message: /score/, peft: { task_type: "CAUSAL_LM" } },
  { title: "too few labels", message: /1 labels, the head has 3/, facts: { labels: ["no"] } },
  {
    title: "no head",
    message: /lacks base_model\.model\.score\.weight/,
    change: (stored) => stored.delete("base_model.model.score.weight"),
  },
  {
    title: "a value that is not finite",
    message: /score\.weight holds Infinity/,
    change: (stored) => stored.get("base_model.model.score.weight")?.data.fill(1 / 0),
  },
];
t.test("adapters that Trifold does not compute are refused by field or tensor", async (t) => {
  const root = t.testdir();
  for (const { title, message, peft, facts, change } of refusals) {
    const folder = join(root, title.replace(/\W/g, "-"));
    const copies = [...classifier.parameters].map(
      ([name, { shape, data }]) => [name, float32(shape, data.slice())] as const,
    );
    await saveAdapter(folder, classifier);
    if (peft !== undefined) await editJson(folder, "adapter_config.json", peft);
    if (facts !== undefined) await editJson(folder, "trifold.json", facts);
    const stored = new Map(copies);
    change?.(stored);
    await writeSafetensors(join(folder, "adapter_model.safetensors"), stored);
    await t.rejects(loadAdapter(folder), { code: "ADAPTER_INVALID", message }, title);
  }
});

t.test("absent and broken files of an adapter are named", async (t) => {
  const folder = join(t.testdir(), "adapter");
  await t.rejects(loadAdapter(folder), {
    code: "ADAPTER_INVALID",
    message: /adapter_config\.json/,
  });
  await saveAdapter(folder, classifier);
  const weights = join(folder, "adapter_model.safetensors");
  writeFileSync(weights, readFileSync(weights).subarray(0, -1));
  await t.rejects(loadAdapter(folder), {
    code: "ADAPTER_INVALID",
    message: /adapter_model\.safetensors is cut off/,
  });
  const twoLabels = saveAdapter(folder, { ...classifier, labels: ["no", "yes"] });
  await t.rejects(twoLabels, { code: "ADAPTER_INVALID", message: /2 labels/ });
});

t.test("an adapter of another model is refused by the tensor that does not fit", async (t) => {
  const fits = (change: Partial<Gpt2Config>) => () =>
    checkAdapterFits(classifier, { ...config, ...change });
  const code = "ADAPTER_INVALID";
  t.throws(fits({ layers: 3 }), { code, message: /h\.2\.attn\.c_attn\.lora_A\.weight is missing/ });
  t.throws(fits({ layers: 1 }), { code, message: /h\.1\..* has no place/ });
  t.throws(fits({ innerSize: 16 }), { code, message: /\[2, 12\], the model takes \[2, 16\]/ });
  t.doesNotThrow(fits({}));
});

/** Byte-level BPE of three merges; "Ġ" stands for the space byte. */
const tinyTokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: [{ id: 0, content: "<|endoftext|>", special: true, normalized: false }],
  normalizer: null,
  pre_tokenizer: {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  },
  post_processor: null,
  decoder: { type: "ByteLevel" },
  model: {
    type: "BPE",
    vocab: Object.fromEntries(
      ["<|endoftext|>", "a", "b", "c", "Ġ", "ab", "Ġab", "abc", "."].map((token, id) => [
        token,
        id,
      ]),
    ),
    merges: ["a b", "Ġ ab", "ab c"],
  },
};

t.test("text is encoded by the merges and decoded to itself", async (t) => {
  const folder = t.testdir({ "tokenizer.json": JSON.stringify(tinyTokenizer) });
  const tokenizer = await openTokenizer(folder);
  t.equal(tokenizer.vocabSize, 9);
  // By hand: "abc" merges a+b, ab+c; " abc" merges a+b, then Ġ+ab, which leaves c alone; "ba" merges nothing.
  t.same(tokenizer.encode("abc abc ba"), [7, 6, 3, 4, 2, 1]);
  t.same(tokenizer.encode(""), [], "no special token is added");
  for (const text of ["abc abc ba", "a .", " a  b.", ""]) {
    t.equal(tokenizer.decode(tokenizer.encode(text)), text, "white space is kept");
  }
  t.equal(tokenizer.decode([0]), "<|endoftext|>");
  t.throws(() => tokenizer.decode([1, 9]), { code: "TOKENIZER_INVALID", message: /no token 9/ });
});

t.test("a text that has no ids is refused without its words", async (t) => {
  const wordPiece = {
    ...tinyTokenizer,
    pre_tokenizer: { type: "Whitespace" },
    model: { type: "WordPiece", vocab: { yes: 0, no: 1 }, continuing_subword_prefix: "##" },
    added_tokens: [],
  };
  const folder = t.testdir({ "tokenizer.json": JSON.stringify(wordPiece) });
  const tokenizer = await openTokenizer(folder);
  t.same(tokenizer.encode("no yes"), [1, 0]);
  t.throws(() => tokenizer.encode("no secret"), { code: "TOKENIZER_INVALID", message: /no token/ });
  t.throws(() => tokenizer.encode("no secret"), { message: /^(?!.*secret)/s });
});

t.test("the hash of a tokenizer is that of its rules", async (t) => {
  const { model, ...rest } = tinyTokenizer;
  const sha256 = async (json: object, settings?: object) => {
    const folder = t.testdir({ "tokenizer.json": JSON.stringify(json, undefined, 3) });
    if (settings) writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(settings));
    return (await openTokenizer(folder)).sha256;
  };
  const own = await sha256(tinyTokenizer);
  t.equal(await sha256({ model, ...rest, padding: { length: 4 } }), own, "key order and padding");
  t.equal(await sha256(tinyTokenizer, { model_max_length: 64, remove_space: false }), own);
  t.not(await sha256(tinyTokenizer, { remove_space: true }), own);
  t.not(await sha256({ ...rest, model: { ...model, merges: ["a b", "Ġ ab"] } }), own);
});

t.test("what is not a tokenizer is refused by its file", async (t) => {
  const root = t.testdir();
  const contents = {
    absent: undefined,
    text: "{",
    list: "[]",
    other: '{"model": {"type": "New"}}',
  };
  for (const [name, content] of Object.entries(contents)) {
    const folder = join(root, name);
    mkdirSync(folder);
    if (content !== undefined) writeFileSync(join(folder, "tokenizer.json"), content);
    const failing = openTokenizer(folder);
    await t.rejects(failing, { code: "TOKENIZER_INVALID", message: /tokenizer\.json/ }, name);
  }
  writeFileSync(join(root, "tokenizer.json"), JSON.stringify(tinyTokenizer));
  writeFileSync(join(root, "tokenizer_config.json"), '{"remove_space": "yes"}');
  await t.rejects(openTokenizer(root), {
    code: "TOKENIZER_INVALID",
    message: /tokenizer_config\.json: remove_space/,
  });
});

t.test("a tokenizer made elsewhere opens", { skip: skipShared }, async (t) => {
  const tokenizer = await openTokenizer(join(shared, "models", "stories260k"));
  t.equal(tokenizer.vocabSize, 512);
  // The first words of the model's own greedy text: ids and text are those of llama2.c.
  t.equal(tokenizer.decode([403, 407, 261, 378]), "Once upon a time");
  t.same(tokenizer.encode("Once upon a time"), [403, 407, 261, 378]);
});

async function editJson(folder: string, name: string, change: object): Promise<void> {
  const file = join(folder, name);
  const json = JSON.parse(readFileSync(file, "utf8"));
  writeFileSync(file, JSON.stringify({ ...json, ...change }));
}
