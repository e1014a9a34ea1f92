// What a device keeps between rounds: one bundle of tensors, committed as a whole, in sections of which each protocol
// reads its own. A device that changes its framework finds what the others left.
import type { Float32Tensor, Parameters } from "../runtime/index.ts";
import { fromSection, intoSection, sectionOf } from "./bundles.ts";
import type { ClientState } from "./protocol.ts";

/**
 * `theta`: the global parameters as last decoded; `local`: a kd device's own parameters; `residual`: what encodings
 * have lost of updates; `moments`: the optimizer's.
 */
export type SectionName = "theta" | "local" | "residual" | "moments";

/** Sections to write; those marked `"drop"` are forgotten, those left out stay as they were committed. */
export type SectionChanges = Readonly<Partial<Record<SectionName, Parameters | "drop">>>;

/** The committed tensors of a section under names of its own, undefined when there are none. */
export async function readSection(
  state: ClientState,
  section: SectionName,
): Promise<Parameters | undefined> {
  const all = (await state.read()) ?? new Map<string, Float32Tensor>();
  const own = fromSection(section, all);
  return own.size === 0 ? undefined : own;
}

/** Stages changed sections beside the committed ones. Once a round: a second call starts from what is committed, too. */
export async function stageSections(state: ClientState, changes: SectionChanges): Promise<void> {
  if (Object.keys(changes).length === 0) return;
  const all = (await state.read()) ?? new Map<string, Float32Tensor>();
  const kept = [...all].filter(([name]) => !Object.hasOwn(changes, sectionOf(name)));
  const written = Object.entries(changes).flatMap(([section, tensors]) =>
    tensors === "drop" ? [] : [...intoSection(section, tensors)],
  );
  await state.stage(new Map([...kept, ...written]));
}

/** Tensors without those of some sections. */
export function withoutSections(
  tensors: Parameters | undefined,
  sections: readonly SectionName[],
): Parameters | undefined {
  const dropped = new Set<string>(sections);
  return tensors && new Map([...tensors].filter(([name]) => !dropped.has(sectionOf(name))));
}
