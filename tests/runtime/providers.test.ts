// Execution providers are believed after a trial only. This machine's own are tried for real; trials that crash, hang or
// lie are programs of the test.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import t from "tap";
import {
  chooseProviders,
  graphBuilder,
  ortEngine,
  type ProviderReport,
  probeProviders,
} from "../../runtime/index.ts";

t.test("the CPU works, and CUDA works or says why not in one line", async (t) => {
  const [cpu, cuda] = (await probeProviders()) as [ProviderReport, ProviderReport];
  t.match(cpu, { name: "cpu", works: true, reason: "a small graph computes" });
  t.equal(cuda.name, "cuda");
  t.notMatch(cuda.reason, /[\r\n]|undefined/);
  const engine = ortEngine({ threads: 1, providers: ["cuda", "cpu"] });
  t.teardown(() => engine.close());
  const loading = engine.load(negation());
  if (cuda.works) await t.resolves(loading);
  // Elsewhere the binding lacks CUDA and computes on the CPU without a word.
  else if (process.platform === "linux" && process.arch === "x64") {
    t.match(cuda.reason, /shared library|CUDA/i);
    await t.rejects(loading, { code: "SESSION_FAILED", message: /Cuda/i });
  } else await loading.catch(() => undefined);
});

t.test("a provider that the binding does not have is not taken for the CPU", async (t) => {
  // As "cuda" on arm64: with the CPU behind it, a session of this one would load and compute.
  const [report] = await probeProviders({ names: ["rocm"] });
  t.match(report, { name: "rocm", works: false, reason: /rocm.* backend not found/ });
});

t.test(
  "a trial that crashes, hangs, ends badly or says nothing is a provider that fails",
  async (t) => {
    const cases: readonly (readonly [string, string | RegExp])[] = [
      ["process.kill(process.pid, 'SIGSEGV')", "the trial ended by SIGSEGV"],
      ["process.exit(3)", "the trial ended by 3"],
      ["setInterval(() => {}, 1000)", "no answer within 1 s"],
      ["process.stdout.write('Segmentation')", "the trial gave no answer"],
      ["process.stdout.write('{}')", "undefined"],
      [
        "process.stdout.write(JSON.stringify({ works: false, reason: 'differs\\nby ' + process.argv[2] }))",
        "differs by cuda",
      ],
    ];
    const folder = t.testdir();
    for (const [i, [program, reason]] of cases.entries()) {
      const file = join(folder, `${i}.mjs`);
      await writeFile(file, program);
      const options = { names: ["cuda"], program: pathToFileURL(file), timeLimitMs: 1000 };
      // A machine so busy that a program of one line takes a second to start gives another reason.
      const limit = program.startsWith("setInterval") ? {} : { timeLimitMs: 60_000 };
      const [report] = await probeProviders({ ...options, ...limit });
      t.match(report, { name: "cuda", works: false, reason }, program);
    }
  },
);

t.test("what is chosen works, and is spoken of only where it was asked for by name", async (t) => {
  const works = { name: "cuda", works: true, reason: "agrees", ms: 1 };
  const fails = { name: "cuda", works: false, reason: "no library", ms: 1 };
  const cases = [
    { choice: "cuda", report: works, hasGpu: true, providers: ["cuda", "cpu"], probes: 1 },
    { choice: "cuda", report: fails, hasGpu: true, providers: ["cpu"], warned: 1, probes: 1 },
    { choice: "cuda", report: fails, hasGpu: false, providers: ["cpu"], warned: 1, probes: 1 },
    { choice: "auto", report: works, hasGpu: true, providers: ["cuda", "cpu"], probes: 1 },
    { choice: "auto", report: fails, hasGpu: true, providers: ["cpu"], debugged: 1, probes: 1 },
    { choice: "auto", report: works, hasGpu: false, providers: ["cpu"], debugged: 1, probes: 0 },
    { choice: "cpu", report: works, hasGpu: true, providers: ["cpu"], probes: 0 },
  ] as const;
  for (const { choice, report, hasGpu, providers, probes, ...told } of cases) {
    const warnings: string[] = [];
    const notes: string[] = [];
    let tried = 0;
    const chosen = await chooseProviders(choice, {
      warn: (message) => warnings.push(message),
      debug: (message) => notes.push(message),
      probe: async () => {
        tried += 1;
        return [report];
      },
      hasGpu: () => hasGpu,
    });
    const title = JSON.stringify({ choice, works: report.works, hasGpu });
    t.same(chosen, providers, title);
    t.equal(tried, probes, title);
    t.equal(warnings.length, "warned" in told ? 1 : 0, title);
    t.equal(notes.length, "debugged" in told ? 1 : 0, title);
    for (const warning of warnings) {
      t.match(warning, /^provider cuda: .*no library.*computing on the CPU[^\n]*$/);
    }
  }
});

function negation() {
  const builder = graphBuilder();
  builder.output(builder.op("Neg", [builder.input("x", "float32", [1])], {}));
  return builder.build("negation");
}
