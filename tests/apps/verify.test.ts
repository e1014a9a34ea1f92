// `trifold verify` against numbers that PyTorch made (scripts/goldens).
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { packageRoot } from "../../apps/package-root.ts";
import type { Comparison } from "../../apps/verify/comparison.ts";
import { verify } from "../../apps/verify/verify.ts";
import {
  type Float32Tensor,
  float32,
  type Int64Tensor,
  int64,
  readSafetensors,
  writeSafetensors,
} from "../../runtime/index.ts";
import { runTrifold } from "./program.ts";

const goldens = join(packageRoot(), "tests", "goldens", "gpt2");
const cacheFolder = t.testdir();
const golden = (name: string) => join(goldens, `${name}.safetensors`);

type Tensors = Map<string, Float32Tensor | Int64Tensor>;

/** Copies a golden reference file with changes. */
async function changed(
  name: string,
  file: string,
  change: (tensors: Tensors) => void,
  metadata: Record<string, string> = {},
): Promise<string> {
  const source = await readSafetensors(golden(name));
  const tensors: Tensors = new Map();
  for (const key of source.tensors.keys()) tensors.set(key, await source.readTensor(key));
  change(tensors);
  await writeSafetensors(file, tensors, { metadata: { ...source.metadata, ...metadata } });
  return file;
}

/** Reference files by the folder of their model. */
const references = {
  gpt2: ["classification", "lm", "lm-all-linear"],
  // Grouped queries, a head of its own, stretched rotary frequencies, every bias that there can be.
  llama: ["classification", "lm"],
  // Biases of queries, keys and values, a tied head.
  qwen2: ["classification", "lm"],
  // Normalised queries and keys, one key head, heads wider than hidden / heads.
  qwen3: ["classification", "lm"],
};
for (const [folder, names] of Object.entries(references)) {
  for (const name of names) {
    t.test(`loss, logits and every gradient of ${folder} ${name} agree with PyTorch`, async (t) => {
      const model = join(goldens, "..", folder);
      const reference = join(model, `${name}.safetensors`);
      const { comparisons, ok } = await verify({ model, reference, cacheFolder, threads: 1 });
      t.ok(ok, JSON.stringify(comparisons.filter((comparison) => !comparison.ok)));
      const { tensors } = await readSafetensors(reference);
      const expected = [...tensors.keys()].filter((key) => key.startsWith("expected."));
      t.equal(comparisons.length, expected.length);
      // What float32 does to these sizes is 4e-5 at most; the bound of verify itself is 100 times wider.
      t.ok(
        comparisons.every(({ error }) => error < 1e-4),
        `${largest(comparisons)}`,
      );
    });
  }
}

function largest(comparisons: readonly Comparison[]): number {
  return Math.max(...comparisons.map(({ error }) => error));
}

const foreign = join(packageRoot(), "..", "shared", "reference", "gpt2-classification");
const skip = existsSync(foreign)
  ? false
  : "no folder `shared` with references lies beside the project";
t.test("a reference of another model and author agrees", { skip }, async (t) => {
  const reference = join(foreign, "reference.safetensors");
  const { ok, comparisons } = await verify({ model: foreign, reference, cacheFolder });
  t.ok(ok, JSON.stringify(comparisons));
  t.equal(comparisons.length, 9);
});

t.test("the program prints one JSON document and writes what it computed", async (t) => {
  const folder = t.testdir();
  const reference = await changed("lm", join(folder, "batch.safetensors"), (tensors) => {
    for (const key of [...tensors.keys()]) if (key.startsWith("expected.")) tensors.delete(key);
  });
  const out = join(folder, "actual.safetensors");
  const args = ["verify", goldens, "--reference", reference, "--out", out, "--json"];
  const { status, stdout, stderr } = await runTrifold(args, { TRIFOLD_CACHE: cacheFolder });
  t.equal(status, 0, stderr);
  const report = JSON.parse(stdout) as { ok: boolean; comparisons: unknown[]; loss: number };
  t.match(report, { ok: true, comparisons: [] });
  t.match(stderr, /3 positions see no token/);
  const actual = await readSafetensors(out);
  const expected = await readSafetensors(golden("lm"));
  for (const [name, { shape }] of expected.tensors) {
    if (!name.startsWith("expected.")) continue;
    const wanted = name.replace(/^expected/, "actual");
    t.same(actual.tensors.get(wanted)?.shape, shape, wanted);
  }
  const loss = (await expected.readFloat32("expected.loss")).data[0] as number;
  // Float32 of a mean near 6: half a unit of the seventh digit, a few times.
  t.ok(Math.abs(report.loss - loss) < 3e-6);
});

t.test("a result beyond its bound is named and ends with status 1", async (t) => {
  const name = "grad.base_model.model.transformer.h.1.attn.c_attn.lora_B.weight";
  const reference = await changed("lm", join(t.testdir(), "wrong.safetensors"), (tensors) => {
    const { shape, data } = tensors.get(`expected.${name}`) as Float32Tensor;
    const wrong = data.slice();
    const largest = Math.max(...data.map(Math.abs));
    wrong[3] = (wrong[3] as number) + 2 * (1e-4 + 1e-3 * largest);
    tensors.set(`expected.${name}`, float32(shape, wrong));
  });
  const args = ["verify", goldens, "--reference", reference];
  const { status, stdout } = await runTrifold(args, { TRIFOLD_CACHE: cacheFolder });
  t.equal(status, 1);
  const beyond = stdout.split("\n").filter((line) => line.endsWith("BEYOND"));
  t.equal(beyond.length, 1);
  t.match(beyond[0], name);
});

t.test("an expectation that is not a number is beyond every bound", async (t) => {
  const reference = await changed("lm", join(t.testdir(), "nan.safetensors"), (tensors) => {
    tensors.set("expected.loss", float32([1], [Number.NaN]));
  });
  const report = await verify({ model: goldens, reference, cacheFolder });
  t.equal(report.ok, false);
});

t.test("logits of positions that see no token are not compared", async (t) => {
  const reference = await changed("lm", join(t.testdir(), "blind.safetensors"), (tensors) => {
    const { shape, data } = tensors.get("expected.logits") as Float32Tensor;
    const [, sequence, vocabulary] = shape as [number, number, number];
    const other = data.slice();
    // Row 1 starts with three positions of padding.
    other.fill(9, sequence * vocabulary, (sequence + 3) * vocabulary);
    tensors.set("expected.logits", float32(shape, other));
  });
  t.equal((await verify({ model: goldens, reference, cacheFolder })).ok, true);
});

const adapterName = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight";
const faults: readonly {
  readonly title: string;
  readonly text: RegExp;
  readonly change?: (tensors: Tensors) => void;
  readonly metadata?: Record<string, string>;
}[] = [
  {
    title: "a missing batch tensor",
    text: /tensor labels is missing/,
    change: (tensors) => tensors.delete("labels"),
  },
  {
    title: "a missing adapter tensor",
    text: /h\.0\.attn\.c_attn\.lora_A\.weight is missing/,
    change: (tensors) => tensors.delete(adapterName),
  },
  {
    title: "an adapter of another rank",
    text: /lora_A\.weight has shape \[4, 16\], expected \[3, 16\]/,
    change: (tensors) => tensors.set(adapterName, float32([4, 16])),
  },
  {
    title: "an adapter of a layer that is no target",
    text: /lora_A\.weight belongs to no layer/,
    metadata: { targets: "mlp.c_fc" },
  },
  {
    title: "a label outside the head",
    text: /labels holds 5 at element 1, expected 0 to 4/,
    change: (tensors) => tensors.set("labels", int64([5], [0, 5, 0, 0, 0])),
  },
  {
    title: "a token outside the vocabulary",
    text: /input_ids holds 50 at element 0/,
    change: (tensors) => tensors.set("input_ids", int64([5, 9], new Array(45).fill(50))),
  },
  {
    title: "a longer sequence than the model takes",
    text: /sequences of 13 tokens, the model takes 12/,
    change: (tensors) => tensors.set("input_ids", int64([5, 13], new Array(65).fill(1))),
  },
  {
    title: "a mask of another shape",
    text: /attention_mask has shape \[9, 5\], expected \[5, 9\]/,
    change: (tensors) => tensors.set("attention_mask", int64([9, 5], new Array(45).fill(1))),
  },
  {
    title: "a mask that hides a whole row",
    text: /hides every token of row 0/,
    change: (tensors) => tensors.set("attention_mask", int64([5, 9], new Array(45).fill(0))),
  },
  {
    title: "labels of floating point",
    text: /labels is of type float32, expected int64/,
    change: (tensors) => tensors.set("labels", float32([5])),
  },
  {
    title: "labels that are all ignored",
    text: /labels ignores every position/,
    change: (tensors) => tensors.set("labels", int64([5], new Array(5).fill(-100))),
  },
  {
    title: "an expectation of another shape",
    text: /expected\.logits has shape \[5, 4\], expected \[5, 5\]/,
    change: (tensors) => tensors.set("expected.logits", float32([5, 4])),
  },
  {
    title: "an expectation of an unknown tensor",
    text: /expected\.grad\.wte\.weight is nothing that verify computes/,
    change: (tensors) => tensors.set("expected.grad.wte.weight", float32([1])),
  },
  { title: "a rank that is no number", text: /rank is "few"/, metadata: { rank: "few" } },
  { title: "an empty field", text: /metadata lacks "alpha"/, metadata: { alpha: "" } },
  { title: "another head", text: /head is "qa"/, metadata: { head: "qa" } },
  { title: "another family", text: /family is "llama"/, metadata: { family: "llama" } },
];

t.test(
  "a reference that does not fit is refused with file, tensor, expected and actual",
  async (t) => {
    const folder = t.testdir();
    for (const { title, text, change = () => undefined, metadata = {} } of faults) {
      const reference = await changed("classification", join(folder, "x"), change, metadata);
      const expected = { code: "REFERENCE_INVALID", message: text };
      await t.rejects(verify({ model: goldens, reference, cacheFolder }), expected, title);
      await rm(reference);
    }
  },
);

t.test(
  "wrong usage ends with status 2, a text without a stack and nothing on standard output",
  async (t) => {
    const absent = join(t.testdir(), "absent.safetensors");
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [["verify", goldens], /^error USAGE_INVALID: required option '--reference <file>'.*\nhint: /],
      [["verify", goldens, "--reference", absent, "--threads", "0"], /whole number of at least 1/],
      [
        ["verify", goldens, "--reference", absent],
        /^error MODEL_FOLDER_INVALID: .*absent.*\n.*ENOENT/,
      ],
      [
        ["verify", absent, "--reference", golden("lm")],
        /^error MODEL_FOLDER_INVALID: .*config\.json/,
      ],
    ];
    for (const [args, text] of cases) {
      const { status, stdout, stderr } = await runTrifold(args, { TRIFOLD_CACHE: cacheFolder });
      t.equal(status, 2, args.join(" "));
      t.equal(stdout, "");
      t.match(stderr, text);
      t.notMatch(stderr, /\n\s+at /);
    }
  },
);
