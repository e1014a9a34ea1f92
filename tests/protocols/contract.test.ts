// The three frameworks under the contract that authors of protocols hold theirs to.
import t from "tap";
import { builtInProtocols, protocolContract } from "../../protocols/index.ts";
import { openToy, toyExamples } from "./toy.ts";

t.test("the built-in protocols keep the contract", async (t) => {
  const toy = await openToy(t);
  const { engine, model, publicSet } = toy;
  // The defaults' encodings are the ones whose sizes and checks differ most: bf16, int8 per channel.
  const narrow = { full: {}, kd: { topK: 1 }, split: {} };
  const setting = {
    task: toy.task(narrow),
    engine,
    model,
    publicSet,
    train: toyExamples("train", 14),
    holdOut: toyExamples("hold-out", 6),
  };
  for (const protocol of builtInProtocols) {
    protocolContract(
      t,
      protocol,
      protocol.name === "split" ? { ...setting, cutLayer: 1 } : setting,
    );
    if (protocol.name === "split") {
      // The encodings whose lengths follow from blocks and from what is kept.
      const task = toy.task({
        ...narrow,
        full: { encoding: "int4" },
        split: { activations: "int4", gradients: "topk", keepFraction: 0.2 },
      });
      protocolContract(t, protocol, { ...setting, task, cutLayer: 2 });
    }
    // The same in the least memory: block by block on int8 layers.
    const modes =
      protocol.modes?.({ ...setting.task, execution: { modes: ["blocks-int8"] } }) ?? [];
    for (const mode of modes) protocolContract(t, protocol, { ...setting, mode });
  }
});
