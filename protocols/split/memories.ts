// What both ends of a cut keep of a device from lane to lane, and how it lies among kept rows: an end goes on from what the
// accepted lane left at this cut. So a repeated attempt, or one after a crash, gives the bytes of the first.
import { fromSection, intoSection } from "../bundles.ts";
import type { EncodedTensor } from "../encoding/encoded.ts";
import type { KeptRows, RowKeeper } from "../kept-rows.ts";
import type { RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import type { Crossings } from "./crossing.ts";
import type { Cuts } from "./cut.ts";
import { owedRows } from "./gradient-sender.ts";
import { type RowMemory, rowMemory } from "./reuse.ts";
import type { RowStore } from "./row-store.ts";

/** What one end remembers of a device. */
export interface EndMemory {
  /** Rows that the device need not send again; absent without reuse. */
  readonly sent: RowMemory | undefined;
  /** What encodings have lost of the gradients that this end sends; absent without error feedback. */
  readonly owed: RowStore | undefined;
  /** Other numbers as the last lane left them. */
  readonly fields: Readonly<Record<string, number>>;
}

/** What the end that sends `gradient` remembers, with what the accepted lane left. A device without a U-shape sends none. */
export async function recall(
  keeper: RowKeeper,
  { task, cuts, crossings, gradient }: MemoryOf,
  { acceptedLane }: Pick<RoundInfo, "acceptedLane">,
): Promise<EndMemory> {
  const { reuse, cacheBytes } = task.split;
  const keepsSent = reuse.threshold !== "off";
  const found = keepsSent || (gradient && task.split.errorFeedback);
  const last = found ? await keeper.read(acceptedLane) : undefined;
  const kept = last?.fields["cutLayer"] === cuts.cutLayer ? last : nothing;
  const { layout } = crossings.activations;
  return {
    sent: keepsSent ? rowMemory(cacheBytes, layout, rowsUnder("sent", kept)) : undefined,
    owed: gradient && owedRows(task, crossings[gradient], rowsUnder("owed", kept)),
    fields: kept.fields,
  };
}

/** Keeps what a lane leaves; writes nothing for a task that remembers nothing. */
export async function remember(
  keeper: RowKeeper,
  { sent, owed, fields }: EndMemory,
  {
    cutLayer,
    lane,
    acceptedLane,
  }: Pick<Cuts, "cutLayer"> & Pick<RoundInfo, "lane" | "acceptedLane">,
): Promise<void> {
  if (!sent && !owed) return;
  const tensors = new Map([
    ...intoSection("sent", byName(sent?.store.rows)),
    ...intoSection("owed", byName(owed?.rows)),
  ]);
  await keeper.write({ fields: { ...fields, cutLayer }, tensors }, { lane, acceptedLane });
}

/** Whose memory it is. */
export interface MemoryOf {
  readonly task: Task;
  readonly cuts: Cuts;
  readonly crossings: Crossings;
  /** The gradient that this end sends, if it sends one. */
  readonly gradient: "cutGradient" | "statesGradient" | undefined;
}

const nothing: KeptRows = { fields: {}, tensors: new Map() };

function rowsUnder(kind: "sent" | "owed", { tensors }: KeptRows): Map<number, EncodedTensor> {
  return new Map([...fromSection(kind, tensors)].map(([name, row]) => [Number(name), row]));
}

function byName(rows: RowStore["rows"] = new Map()): Map<string, EncodedTensor> {
  return new Map([...rows].map(([text, row]) => [String(text), row]));
}
