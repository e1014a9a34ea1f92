// The global model on the disk: the adapter of every round, and beside the last ones what the coordinator needs to go on
// as if it had not stopped: the change as devices get it, what the encoding has lost, and the server optimizer's state.
//   checkpoints/round-0001.safetensors  journal/global/round-0001.change  journal/global/round-0001.memory
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fromSection, type GlobalModel, intoSection, type Payload } from "../../protocols/index.ts";
import {
  makeFolder,
  type Parameters,
  readParameterFile,
  removeLeftovers,
  writeFileAtomic,
  writeSafetensors,
} from "../../runtime/index.ts";
import { decodeStored, encodeStored } from "../stored-message.ts";

/** Finished rounds' global models in a run folder. */
export interface Checkpoints {
  /** Writes one; it survives a power cut once this resolves. */
  save(global: GlobalModel): Promise<void>;
  /** The one after `round` rounds. */
  read(round: number): Promise<GlobalModel>;
}

/** Checkpoints below `runFolder`, whose folders are created. */
export async function openCheckpoints(runFolder: string): Promise<Checkpoints> {
  const [adapters, states] = [join(runFolder, "checkpoints"), join(runFolder, "journal", "global")];
  for (const folder of [adapters, states]) {
    await makeFolder(folder);
    await removeLeftovers(folder);
  }
  const adapter = (round: number) => join(adapters, `${nameOf(round)}.safetensors`);
  const change = (round: number) => join(states, `${nameOf(round)}.change`);
  const memory = (round: number) => join(states, `${nameOf(round)}.memory`);
  return {
    save: async (global) => {
      const { round } = global;
      await writeSafetensors(adapter(round), global.parameters);
      await writeSafetensors(memory(round), memoryOf(global));
      if (global.change)
        await writeFileAtomic(
          change(round),
          await encodeStored(changeMessage(global.change), coordinatorsOwn),
        );
      // The round before is the last finished one until the journal says otherwise.
      for (const old of [change(round - 2), memory(round - 2)]) await rm(old, { force: true });
    },
    read: async (round) => ({
      round,
      parameters: await readParameterFile(adapter(round)),
      ...(existsSync(change(round))
        ? { change: (await decodeStored(await readFile(change(round)))).tensors }
        : {}),
      ...(existsSync(memory(round)) ? memoryFrom(await readParameterFile(memory(round))) : {}),
    }),
  };
}

type Memory = Pick<GlobalModel, "residual" | "optimizer">;

const sections = ["residual", "optimizer"] as const;

function memoryOf(memory: Memory): Parameters {
  const all = sections.flatMap((section) => [
    ...intoSection(section, memory[section] ?? new Map()),
  ]);
  return new Map(all);
}

function memoryFrom(stored: Parameters): Memory {
  const read = sections.map((section) => [section, fromSection(section, stored)] as const);
  return Object.fromEntries(read.filter(([, tensors]) => tensors.size > 0));
}

type Change = NonNullable<GlobalModel["change"]>;

function changeMessage(tensors: Change): Payload {
  return { kind: "change", fields: {}, tensors };
}

const coordinatorsOwn = { sender: "coordinator", sequence: 1 };

function nameOf(round: number): string {
  return `round-${String(round).padStart(4, "0")}`;
}
