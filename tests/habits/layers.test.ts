import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import t from "tap";

/** What a file may import and what it must not, one of each per edge and rule of the layers. */
const CASES: Readonly<Record<string, { readonly legal: string[]; readonly refused: string[] }>> = {
  "devices/sample.ts": {
    legal: ["./units.ts", "zod", "systeminformation", "node:fs"],
    refused: [
      "../runtime/index.ts",
      "../protocols/index.ts",
      "../broker/index.ts",
      "../apps/cli.ts",
      "onnxruntime-node",
      "trifold/runtime",
    ],
  },
  "runtime/train/sample.ts": {
    legal: ["../tensor.ts", "../graph/ir.ts", "./data.ts", "@huggingface/tokenizers"],
    refused: [
      "../../devices/index.ts",
      "../../protocols/index.ts",
      "../../broker/index.ts",
      "../../apps/cli.ts",
      "../../tests/runtime/data.ts",
      "onnxruntime-node",
      "aedes",
      "mqtt",
      "msgpackr",
      "systeminformation",
      "trifold",
    ],
  },
  "runtime/session/sample.ts": {
    legal: ["onnxruntime-node", "../tensor.ts"],
    refused: ["mqtt", "../../protocols/index.ts"],
  },
  "protocols/full/sample.ts": {
    legal: ["../task.ts", "../../runtime/index.ts", "../../devices/index.ts"],
    refused: [
      "../../runtime/tensor.ts",
      "../../runtime/session/ort.ts",
      "../../devices/profile.ts",
      "../../broker/index.ts",
      "../../apps/cli.ts",
      "../../benchmarks/main.ts",
      "onnxruntime-node",
      "msgpackr/pack",
    ],
  },
  "broker/sample.ts": {
    legal: ["./topics.ts", "../protocols/index.ts", "../runtime/index.ts"],
    refused: [
      "../protocols/task.ts",
      "../runtime/tensor.ts",
      "../devices/index.ts",
      "../apps/cli.ts",
      "../scripts/bpe.ts",
      "aedes",
      "mqtt",
      "msgpackr",
      "ws",
    ],
  },
  "broker/websocket.ts": { legal: ["ws"], refused: ["aedes", "mqtt", "../apps/cli.ts"] },
  "broker/embedded.ts": { legal: ["aedes"], refused: ["mqtt", "ws", "../devices/index.ts"] },
  "broker/transport/mqtt.ts": { legal: ["mqtt"], refused: ["aedes", "../../apps/cli.ts"] },
  "broker/persistence.ts": {
    legal: ["aedes-persistence-level", "level"],
    refused: ["aedes", "../apps/cli.ts"],
  },
  "broker/codec/sample.ts": { legal: ["msgpackr"], refused: ["mqtt", "../../runtime/tensor.ts"] },
  "apps/device/sample.ts": {
    legal: [
      "../errors.ts",
      "../../devices/index.ts",
      "../../runtime/index.ts",
      "../../protocols/index.ts",
      "../../broker/index.ts",
      "mqtt-packet",
    ],
    refused: [
      "../../devices/profile.ts",
      "../../runtime/tensor.ts",
      "../../protocols/task.ts",
      "../../broker/topics.ts",
      "../../examples/protocol.ts",
      "onnxruntime-node/dist/backend.js",
      "mqtt",
      "systeminformation",
      "@peculiar/x509",
    ],
  },
  "apps/keys/certificates.ts": { legal: ["@peculiar/x509"], refused: ["aedes"] },
  "scripts/sample.ts": {
    legal: ["../runtime/index.ts", "../apps/demo/corpus.ts"],
    refused: ["../runtime/tensor.ts"],
  },
  "benchmarks/sample.ts": {
    legal: ["../broker/index.ts", "../apps/package-root.ts"],
    refused: ["../broker/topics.ts"],
  },
  "tests/runtime/sample.ts": {
    legal: ["../../runtime/tensor.ts", "../../apps/errors.ts", "msgpackr", "aedes"],
    refused: [],
  },
};

t.test(
  "each layer imports what lies below it through its door and is refused the rest",
  async (t) => {
    const refused = await lintFixtures(t);
    for (const [file, expected] of Object.entries(CASES)) {
      t.same(
        refused.filter((import_) => import_.file === file).map((import_) => import_.specifier),
        expected.refused,
        file,
      );
    }
  },
);

/** Writes each case as a file of one import per line and lints them all with the project's configuration. */
async function lintFixtures(t: {
  teardown(handler: () => Promise<void>): void;
}): Promise<{ file: string; specifier: string }[]> {
  // Beside the project a fixture would be ignored with the other test output.
  const folder = await mkdtemp(join(tmpdir(), "trifold-layers-"));
  t.teardown(() => rm(folder, { recursive: true }));
  for (const name of ["biome.json", ".gitignore"]) {
    await cp(name, join(folder, name));
  }
  const imports = Object.entries(CASES).map(
    ([file, { legal, refused }]) => [file, [...legal, ...refused]] as const,
  );
  for (const [file, specifiers] of imports) {
    await mkdir(join(folder, dirname(file)), { recursive: true });
    await writeFile(join(folder, file), specifiers.map((name) => `import "${name}";\n`).join(""));
  }
  const { diagnostics } = JSON.parse(await biome(folder)) as { diagnostics: Diagnostic[] };
  const lines = new Map(imports);
  return diagnostics
    .map(({ location: { path, start } }) => ({ file: path, line: start.line }))
    .sort((a, b) => a.line - b.line)
    .map(({ file, line }) => ({ file, specifier: lines.get(file)?.[line - 1] ?? "?" }));
}

interface Diagnostic {
  readonly location: { readonly path: string; readonly start: { readonly line: number } };
}

function biome(cwd: string): Promise<string> {
  const command = resolve("node_modules/@biomejs/biome/bin/biome");
  const args = [
    "lint",
    "--only=style/noRestrictedImports",
    "--reporter=json",
    "--max-diagnostics=none",
  ];
  return new Promise((resolveOutput) => {
    // The exit code says only that there are findings.
    execFile(process.execPath, [command, ...args], { cwd }, (_error, stdout) => {
      resolveOutput(stdout);
    });
  });
}
