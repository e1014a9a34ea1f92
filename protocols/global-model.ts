// How the one global adapter set travels: nothing at the start, which both ends make alike; then each round's change,
// encoded once. The coordinator adopts what devices decode, so both ends hold the same theta_t to the last bit.
import { z } from "zod";
import { type Float32Tensor, float32, type Parameters } from "../runtime/index.ts";
import { applyUpdate } from "./aggregation/index.ts";
import { readSection, type SectionChanges } from "./client-memory.ts";
import type { EncodedTensor } from "./encoding/encoded.ts";
import { encodeAll } from "./encoding/index.ts";
import { marked } from "./model-mark.ts";
import { decodeExactly, difference, outOfTurn, subset } from "./payload.ts";
import { perGlobal } from "./per-global.ts";
import { trainedPart } from "./plan.ts";
import type { ClientState, GlobalModel } from "./protocol.ts";
import type { Task, TaskSettings } from "./task.ts";
import { encodeChange } from "./update-encoding.ts";

/** Fields that go with global parameters. */
export const globalFields = z.discriminatedUnion("form", [
  /** The task's seeded start; no tensors. */
  z.strictObject({ form: z.literal("start") }),
  /** The parameters themselves, in float32. */
  z.strictObject({ form: z.literal("whole") }),
  /** What is to be added to the parameters after `base` rounds. */
  z.strictObject({ form: z.literal("change"), base: z.int().nonnegative() }),
]);

/** Fields of a device's request for the whole parameters: it does not hold what a change is relative to. */
export const catchUpFields = z.strictObject({});

/** Global parameters as they travel. */
export interface EncodedGlobal {
  readonly fields: z.output<typeof globalFields>;
  readonly tensors: ReadonlyMap<string, EncodedTensor>;
}

/** What a round's lanes send of its global model. */
export interface GlobalSender {
  /** The first message to every device. */
  readonly first: EncodedGlobal;
  /** For a device that asks to catch up. */
  whole(): EncodedGlobal;
}

/** Senders of a round's global model; encoded once for all of its lanes. */
export function globalSender(task: TaskSettings): (global: GlobalModel) => GlobalSender {
  return perGlobal(({ round, parameters, change }) => {
    let encoded: EncodedGlobal | undefined;
    const whole = (): EncodedGlobal => {
      const tensors = () => encodeAll(trainedPart(task, parameters), "float32");
      encoded ??= { fields: { form: "whole" }, tensors: tensors() };
      return encoded;
    };
    return { first: firstOf(round, change) ?? whole(), whole };
  });
}

/** The part of encoded parameters that a device with only some of the tensors gets. */
export function partOf({ fields, tensors }: EncodedGlobal, names: Iterable<string>): EncodedGlobal {
  return { fields, tensors: fields.form === "start" ? new Map() : subset(tensors, names) };
}

/**
 * The global model after a round that made `parameters` of `global`. Float32 travels whole and exact; a narrower
 * encoding carries the change and what earlier ones lost, and what it decodes to is the new model.
 */
export function nextGlobal(
  task: TaskSettings,
  global: GlobalModel,
  parameters: Parameters,
): GlobalModel {
  const round = global.round + 1;
  if (task.full.encoding === "float32") return { round, parameters };
  const { encoded, decoded, residual } = encodeChange(
    task,
    difference(trainedPart(task, parameters), global.parameters),
    global.residual,
  );
  const adopted = applyUpdate(global.parameters, decoded);
  return { round, parameters: adopted, change: encoded, ...(residual ? { residual } : {}) };
}

/** What a device receives parameters with. */
export interface ReceiveOptions {
  readonly task: TaskSettings;
  readonly state: ClientState;
  /** The seeded start of the tensors that the device wants. */
  readonly initial: Parameters;
  /** Asks for the whole parameters. */
  readonly catchUp: () => Promise<EncodedGlobal>;
}

/** theta_t as the coordinator holds it, from what the round began with. */
export async function receiveGlobal(
  start: EncodedGlobal,
  { task, state, initial, catchUp }: ReceiveOptions,
): Promise<Parameters> {
  const { fields, tensors } = start;
  const travels = trainedPart(task, initial);
  const shapes = new Map([...travels].map(([name, { shape }]) => [name, shape]));
  const whole = (trained: Parameters) => new Map([...initial, ...trained]);
  if (fields.form === "start") return initial;
  if (fields.form === "whole") return whole(decodeExactly(tensors, shapes));
  const change = decodeExactly(tensors, shapes);
  const base = await heldAt(state, fields.base, [...shapes.keys()]);
  if (base) return whole(applyUpdate(base, change));
  const answer = await catchUp();
  if (answer.fields.form === "whole") return whole(decodeExactly(answer.tensors, shapes));
  throw outOfTurn(`"${answer.fields.form}" came, the whole parameters were asked for`);
}

/**
 * What a device remembers of the parameters it received in a round: what the next change is added to, and where a kd device
 * begins that was something else before. Nothing where they travel whole each time and nobody is given kd.
 */
export function rememberGlobal(task: Task, theta: Parameters, round: number): SectionChanges {
  if (task.full.encoding === "float32" && !mayDistil(task)) return {};
  const kept = new Map([...trainedPart(task, theta), [roundName, float32([1], [round - 1])]]);
  return { theta: marked(task, kept) };
}

function mayDistil({ selection, assignments }: TaskSettings): boolean {
  return selection.order.includes("kd") || assignments.some(({ protocol }) => protocol === "kd");
}

// No parameter is called so: their names begin with PEFT's prefix.
const roundName = "round";

function firstOf(
  round: number,
  change: ReadonlyMap<string, EncodedTensor> | undefined,
): EncodedGlobal | undefined {
  if (round === 0) return { fields: { form: "start" }, tensors: new Map() };
  return change && { fields: { form: "change", base: round - 1 }, tensors: change };
}

/** The committed parameters if they are those after `round` rounds and none is missing. */
async function heldAt(
  state: ClientState,
  round: number,
  names: readonly string[],
): Promise<Parameters | undefined> {
  const held = (await readSection(state, "theta")) ?? new Map<string, Float32Tensor>();
  const isBase = held.get(roundName)?.data[0] === round && names.every((name) => held.has(name));
  return isBase ? subset(held, names) : undefined;
}
