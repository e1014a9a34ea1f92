// Text by next tokens: the loop and the choice, pure functions of logits, settings and seed.
import { randomStream } from "../random.ts";
import { untilAborted } from "./until-aborted.ts";

/** How a token is chosen from logits. */
export interface Sampling {
  /** Divides the logits; 0 takes the largest. */
  readonly temperature: number;
  /** Only so many of the largest; all when left out. */
  readonly topK?: number;
  /** Only the most probable that together have this probability (Holtzman et al. 2020); all when left out. */
  readonly topP?: number;
  readonly seed: number;
}

/** What a generation runs with. */
export interface GenerationOptions {
  /** At least one token. */
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  /** Most tokens that the model can see. */
  readonly positions: number;
  /** Tokens that end a text; they are not part of it. */
  readonly endTokens: readonly number[];
  readonly sampling: Sampling;
  /** Logits [vocab] of the token behind these. */
  readonly next: (tokens: readonly number[]) => Promise<Float32Array>;
  readonly signal?: AbortSignal;
}

/** Why a text ended: at an end token, at `maxTokens`, or where the model can see no further. */
export type StopReason = "end" | "maxTokens" | "positions";

/** Yields tokens as they are found and returns why it stopped; rejects with the signal's reason when aborted. */
export async function* generateTokens(
  options: GenerationOptions,
): AsyncGenerator<number, StopReason> {
  const { prompt, maxTokens, positions, endTokens, sampling, next, signal } = options;
  const tokens = [...prompt];
  for (let made = 0; made < maxTokens; made++) {
    if (tokens.length > positions) return "positions";
    signal?.throwIfAborted();
    const logits = await untilAborted(next(tokens), signal);
    const token = chooseToken(logits, sampling, tokens.length);
    if (endTokens.includes(token)) return "end";
    tokens.push(token);
    yield token;
  }
  return "maxTokens";
}

/** The token chosen at a position, counted from 0: a function of the logits, the settings and the position. */
export function chooseToken(logits: Float32Array, sampling: Sampling, position: number): number {
  const { temperature, topK = logits.length, topP = 1, seed } = sampling;
  if (temperature === 0) return largest(logits);
  const order = Array.from(logits.keys()).sort(
    (a, b) => (logits[b] as number) - (logits[a] as number) || a - b,
  );
  const kept = order.slice(0, topK);
  const highest = logits[kept[0] as number] as number;
  const shares = kept.map((token) => Math.exp(((logits[token] as number) - highest) / temperature));
  const total = shares.reduce((sum, share) => sum + share, 0);
  const count = nucleusOf(shares, topP * total);
  const mass = shares.slice(0, count).reduce((sum, share) => sum + share, 0);
  let rest = randomStream(seed, "generate", position).next() * mass;
  for (let i = 0; i < count; i++) {
    rest -= shares[i] as number;
    if (rest < 0) return kept[i] as number;
  }
  // Rounding may leave a last bit of the draw.
  return kept[count - 1] as number;
}

/** How many of the descending shares it takes to reach `mass`; at least one. */
function nucleusOf(shares: readonly number[], mass: number): number {
  let sum = 0;
  const last = shares.findIndex((share) => {
    sum += share;
    return sum >= mass;
  });
  return last < 0 ? shares.length : last + 1;
}

/** The first of the largest. */
function largest(values: Float32Array): number {
  let best = 0;
  values.forEach((value, i) => {
    if (value > (values[best] as number)) best = i;
  });
  return best;
}
