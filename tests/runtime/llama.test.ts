// The Llama family against a real checkpoint, and its rotary frequencies and configurations against what Hugging
// Face's classes do. Loss, logits and gradients of tiny models are held against PyTorch in tests/apps/verify.test.ts.
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import t from "tap";
import {
  initialParameters,
  int64,
  type LlamaConfig,
  loadPredictor,
  openBaseModel,
  ortEngine,
  parameterShapes,
  readSafetensors,
  saveAdapter,
} from "../../runtime/index.ts";
import {
  parseHuggingFaceConfig,
  toHuggingFaceConfig,
} from "../../runtime/models/hugging-face-config.ts";
import { rotaryFrequencies } from "../../runtime/models/rotary.ts";
import { modelSha256 } from "../../runtime/models/weights-file.ts";
import { float32 } from "../../runtime/tensor.ts";

const stories = resolve("..", "shared", "models", "stories260k");
const skip = existsSync(stories) ? false : "no ../shared/models/stories260k beside the project";

/** Meta's Llama 3.2 1B, as its config.json says it. */
const llama3 = {
  model_type: "llama",
  vocab_size: 128_256,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 16,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 64,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  rope_scaling: {
    rope_type: "llama3",
    factor: 32,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  pretraining_tp: 1,
  tie_word_embeddings: true,
  eos_token_id: 128_001,
};

t.test(
  "a checkpoint that others trained tells the story that PyTorch tells",
  { skip },
  async (t) => {
    const golden = JSON.parse(readFileSync(join(stories, "golden.json"), "utf8")) as {
      readonly greedy_ids_from_bos: readonly number[];
      readonly logits_first8_at_bos: readonly number[];
    };
    const engine = ortEngine({ threads: 1 });
    t.teardown(() => engine.close());
    const model = await openBaseModel(stories, { cacheFolder: t.testdir() });
    const ids = golden.greedy_ids_from_bos;
    const sequence = ids.length;
    const lora = { rank: 1, alpha: 1, targets: ["q_proj"] };
    const head = { kind: "lm" } as const;
    const predictor = await loadPredictor(engine, { model, lora, head, batch: 1, sequence });
    // Zeros: the adapter adds nothing.
    const parameters = new Map(
      [...parameterShapes(model.config, lora, head)].map(([name, shape]) => [name, float32(shape)]),
    );
    const written = [ids[0] as number];
    let first: Float32Array = new Float32Array();
    while (written.length < sequence) {
      const padded = [...written, ...new Array(sequence - written.length).fill(0)];
      const feeds = new Map([
        ["input_ids", int64([1, sequence], padded)],
        [
          "attention_mask",
          int64(
            [1, sequence],
            padded.map((_, i) => (i < written.length ? 1 : 0)),
          ),
        ],
      ]);
      const { data } = await predictor.run(parameters, feeds);
      const { vocabSize } = model.config;
      const last = data.subarray((written.length - 1) * vocabSize, written.length * vocabSize);
      if (written.length === 1) first = last;
      written.push(last.indexOf(Math.max(...last)));
    }
    t.same(written, ids);
    golden.logits_first8_at_bos.forEach((expected, i) => {
      // Both sides are float32: five blocks of sums of 172 products near 8 differ by a few units of 5e-7 each.
      t.ok(Math.abs((first[i] as number) - expected) < 2e-5, `logit ${i}`);
    });
  },
);

t.test("an adapter has the names and the orientation that PEFT gives a Llama", async (t) => {
  const folder = t.testdir();
  const config = parseHuggingFaceConfig(llama3, "config.json");
  const lora = { rank: 2, alpha: 4, targets: ["q_proj", "v_proj", "down_proj"] };
  const head = { kind: "lm" } as const;
  const parameters = initialParameters({ ...config, layers: 1 }, lora, head, 1);
  await saveAdapter(folder, { lora, head, parameters, baseModelName: "llama" });
  const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
  const shapes = Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));
  const path = "base_model.model.model.layers.0";
  t.same(shapes, {
    [`${path}.mlp.down_proj.lora_A.weight`]: [2, 8192],
    [`${path}.mlp.down_proj.lora_B.weight`]: [2048, 2],
    [`${path}.self_attn.q_proj.lora_A.weight`]: [2, 2048],
    [`${path}.self_attn.q_proj.lora_B.weight`]: [2048, 2],
    [`${path}.self_attn.v_proj.lora_A.weight`]: [2, 2048],
    [`${path}.self_attn.v_proj.lora_B.weight`]: [512, 2],
  });
  const peft = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
  // Linear weights are [out, in], unlike GPT-2's.
  t.match(peft, { fan_in_fan_out: false, target_modules: ["q_proj", "v_proj", "down_proj"] });
});

t.test("rotary frequencies fall from 1 as theta says, and stretch as Llama 3 does", (t) => {
  const plain = { headSize: 4, ropeTheta: 10_000, ropeScaling: null };
  t.same(rotaryFrequencies(plain), [1, Math.fround(0.01)]);
  // Turns within 100 positions: 100 / 2 pi = 15.9 and a tenth of it each time; limits 10 and 1.
  const scaling = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 10 };
  const stretched = rotaryFrequencies({
    headSize: 6,
    ropeTheta: 1000,
    ropeScaling: { ...scaling, originalPositions: 100 },
  });
  // 1.59 turns lie (1.59 - 1) / 9 of the way from an eighth to the whole.
  const way = (10 / (2 * Math.PI) - 1) / 9;
  const between = ((1 - way) * 0.1) / 8 + way * 0.1;
  [1, between, 0.01 / 8].forEach((expected, i) => {
    // Rounded to float32, and a power of theta before that.
    t.ok(Math.abs((stretched[i] as number) / expected - 1) < 1e-7, `frequency ${i}`);
  });
  t.end();
});

t.test("configurations of Llama, Qwen and Mistral are read as their classes read them", (t) => {
  const parse = (json: object) => parseHuggingFaceConfig(json, "config.json");
  const expected: LlamaConfig = {
    family: "llama",
    vocabSize: 128_256,
    positions: 131_072,
    hiddenSize: 2048,
    layers: 16,
    heads: 32,
    keyValueHeads: 8,
    headSize: 64,
    innerSize: 8192,
    rmsNormEpsilon: 1e-5,
    ropeTheta: 500_000,
    ropeScaling: {
      factor: 32,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalPositions: 8192,
    },
    attentionBias: false,
    outputBias: false,
    feedForwardBias: false,
    queryKeyNorm: false,
    tiedEmbedding: true,
    padTokenId: 128_001,
  };
  t.same(parse(llama3), expected);

  const { rope_theta, rope_scaling, ...withoutRope } = llama3;
  const newer = { ...withoutRope, rope_parameters: { ...rope_scaling, rope_theta } };
  t.same(parse(newer), expected, "the newer form of rotary settings");

  const bare = {
    vocab_size: 10,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 1,
    num_attention_heads: 4,
  };
  const noBias = { attentionBias: false, outputBias: false, feedForwardBias: false };
  const plain = {
    ropeTheta: 10_000,
    ropeScaling: null,
    rmsNormEpsilon: 1e-6,
    tiedEmbedding: false,
  };
  t.match(parse({ ...bare, model_type: "llama" }), {
    ...noBias,
    ...plain,
    ...{ keyValueHeads: 4, headSize: 8, positions: 2048, padTokenId: 0 },
  });
  t.match(parse({ ...bare, model_type: "llama", attention_bias: true, mlp_bias: true }), {
    ...{ attentionBias: true, outputBias: true, feedForwardBias: true },
  });
  t.match(parse({ ...bare, model_type: "qwen2", num_key_value_heads: 2 }), {
    ...{ ...noBias, attentionBias: true, queryKeyNorm: false, headSize: 8, positions: 32_768 },
  });
  const qwen3 = { ...bare, model_type: "qwen3", num_key_value_heads: 2, rope_scaling: null };
  t.match(parse(qwen3), { ...noBias, queryKeyNorm: true, headSize: 128 });
  const mistral = { ...bare, model_type: "mistral", num_key_value_heads: 2, sliding_window: null };
  t.match(parse({ ...mistral, max_position_embeddings: 64 }), { ...noBias, positions: 64 });
  t.end();
});

t.test("the hash of a model does not depend on the order of its configuration", (t) => {
  const config = parseHuggingFaceConfig(llama3, "config.json") as LlamaConfig;
  const backwards = <T extends object>(record: T): T =>
    Object.fromEntries(Object.entries(record).reverse()) as T;
  const { ropeScaling } = config;
  const turned = backwards({ ...config, ropeScaling: ropeScaling && backwards(ropeScaling) });
  t.equal(modelSha256(turned, {}), modelSha256(config, {}));
  t.not(modelSha256({ ...config, ropeScaling: null }, {}), modelSha256(config, {}));
  t.end();
});

t.test("a written configuration is read back to the same, whatever the model type", (t) => {
  const base = parseHuggingFaceConfig(llama3, "config.json") as LlamaConfig;
  const variants: readonly Partial<LlamaConfig>[] = [
    {},
    { ropeScaling: null, tiedEmbedding: false, padTokenId: 3 },
    { attentionBias: true, outputBias: true, feedForwardBias: true },
    { attentionBias: true },
    { queryKeyNorm: true, headSize: 96 },
    { queryKeyNorm: true, attentionBias: true, outputBias: true },
  ];
  const types = variants.map((variant) => {
    const config = { ...base, ...variant };
    const json = toHuggingFaceConfig(config);
    t.same(parseHuggingFaceConfig(json, "config.json"), config, JSON.stringify(variant));
    return json["model_type"];
  });
  t.same(types, ["llama", "llama", "llama", "qwen2", "qwen3", "qwen3"]);
  const odd = { ...base, queryKeyNorm: true, feedForwardBias: true };
  t.throws(() => toHuggingFaceConfig(odd), { code: "MODEL_UNSUPPORTED", message: /queryKeyNorm/ });
  t.end();
});

t.test("settings that would change the numbers are refused by name", (t) => {
  const scaling = (change: object) => ({ rope_scaling: { ...llama3.rope_scaling, ...change } });
  const refusals: readonly (readonly [fields: object, message: RegExp])[] = [
    [{ model_type: "gemma" }, /model_type is "gemma", expected "gpt2" or "llama"/],
    [{ model_type: undefined }, /model_type is absent/],
    [{ hidden_act: "gelu" }, /hidden_act is "gelu", expected "silu"/],
    [{ pretraining_tp: 2 }, /pretraining_tp is 2, expected 1/],
    [{ use_sliding_window: true }, /use_sliding_window is true/],
    [{ use_mrope: true }, /use_mrope is true/],
    [{ quantization_config: { bits: 4 } }, /quantization_config is {"bits":4}/],
    [{ layer_types: ["full_attention", "sliding_attention"] }, /layer_types is .*sliding/],
    [{ layer_types: "full_attention" }, /layer_types/],
    [{ model_type: "mistral", sliding_window: 4096 }, /sliding_window is 4096, expected null/],
    [{ model_type: "mistral" }, /sliding_window is absent, expected null/],
    [scaling({ rope_type: "yarn" }), /rope_scaling\.rope_type is "yarn"/],
    [{ rope_scaling: { type: "linear", factor: 2 } }, /rope_scaling\.rope_type is "linear"/],
    [scaling({ mrope_section: [1, 2] }), /rope_scaling\.mrope_section is \[1,2\]/],
    [scaling({ low_freq_factor: 4 }), /rope_scaling\.low_freq_factor is 4, expected less than/],
    [{ rope_parameters: { rope_type: "default" } }, /rope_scaling is .* beside rope_parameters/],
    [
      { rope_scaling: null, rope_parameters: { rope_theta: 7 } },
      /rope_parameters\.rope_theta is 7, expected 500000/,
    ],
    [
      { rope_scaling: null, rope_parameters: { full_attention: { rope_type: "default" } } },
      /rope_parameters\.full_attention/,
    ],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0\.5/],
    [scaling({ partial_rotary_factor: 0.25 }), /partial_rotary_factor is 0\.25/],
    [{ num_key_value_heads: 5 }, /num_attention_heads is 32, expected a multiple of .* 5/],
    [{ head_dim: 63 }, /head_dim is 63, expected an even number/],
    [{ head_dim: null, hidden_size: 2050 }, /head_dim is 64\.0625, expected an even number/],
  ];
  for (const [fields, message] of refusals) {
    const parse = () => parseHuggingFaceConfig({ ...llama3, ...fields }, "a/config.json");
    t.throws(parse, { code: "MODEL_UNSUPPORTED", message }, `${message}`);
    t.throws(parse, { message: /^a\/config\.json: / });
  }
  const invalid: readonly (readonly [fields: object, message: RegExp])[] = [
    [{ num_hidden_layers: undefined }, /num_hidden_layers/],
    [{ intermediate_size: 1.5 }, /intermediate_size/],
    [{ rms_norm_eps: -1 }, /rms_norm_eps/],
    [{ rope_theta: 0 }, /rope_theta/],
    [{ rope_scaling: { rope_type: "llama3", factor: 8 } }, /rope_scaling.*low_freq_factor/],
    [{ model_type: "qwen2", num_key_value_heads: undefined }, /num_key_value_heads is missing/],
  ];
  for (const [fields, message] of invalid) {
    const parse = () => parseHuggingFaceConfig({ ...llama3, ...fields }, "config.json");
    t.throws(parse, { code: "MODEL_FOLDER_INVALID", message }, `${message}`);
  }
  t.end();
});
