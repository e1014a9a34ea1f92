// `trifold generate`: how a language model, with an adapter or without one, goes on from a text.
import {
  generateTokens,
  ortEngine,
  readSpecialTokens,
  type Sampling,
  type SpecialTokens,
  type StopReason,
  type Tokenizer,
} from "../../runtime/index.ts";
import { appErrors } from "../errors.ts";
import { openModelAndTokenizer } from "../model-and-tokenizer.ts";
import { openAdapter } from "./evaluation.ts";
import { nextTokenOf } from "./next-token.ts";

/** What to go on from, and how. */
export interface GenerationRequest {
  readonly model: string;
  readonly adapter?: string;
  readonly prompt: string;
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly threads?: number;
  readonly cacheFolder: string;
  readonly signal: AbortSignal;
  readonly log: (message: string) => void;
  /** Told every part of the text as it is found; all parts make `text`. */
  readonly onText: (part: string) => void;
}

/** What was found. */
export interface GenerationReport {
  readonly prompt: string;
  /** Behind the prompt. */
  readonly text: string;
  readonly promptTokens: readonly number[];
  readonly tokens: readonly number[];
  readonly stop: StopReason;
  readonly seconds: number;
}

/** Generates a text. Throws `MODEL_*`, `ADAPTER_INVALID`, `OPTION_INVALID`, or the signal's reason. */
export async function generateText(request: GenerationRequest): Promise<GenerationReport> {
  const { prompt, maxTokens, sampling, threads, cacheFolder, signal, onText } = request;
  const { model, tokenizer } = await openModelAndTokenizer(request.model, cacheFolder);
  const adapter = await openAdapter(request.adapter, model, request.log);
  const { lora, head, parameters } = adapter;
  if (head.kind !== "lm") throw noLanguageModel(request.adapter);
  const special = await readSpecialTokens(request.model, tokenizer);
  const { positions } = model.config;
  const promptTokens = promptOf(prompt, tokenizer, special, positions);
  const engine = ortEngine({ signal, ...(threads && { threads }) });
  const { next, close } = nextTokenOf(engine, { model, lora, head }, parameters);
  const startMs = performance.now();
  const texts = textStream(tokenizer, promptTokens, onText);
  const endTokens = special.end;
  const all = { prompt: promptTokens, maxTokens, positions, endTokens, sampling, next, signal };
  try {
    const found = generateTokens(all);
    let step = await found.next();
    for (; !step.done; step = await found.next()) texts.add(step.value);
    const { text, tokens } = texts.end();
    await close();
    const seconds = (performance.now() - startMs) / 1000;
    return { prompt, text, promptTokens, tokens, stop: step.value, seconds };
  } finally {
    await engine.close();
  }
}

/** Tokens to go on from; a text of no tokens begins where the model's texts begin. */
function promptOf(
  prompt: string,
  tokenizer: Tokenizer,
  { begin, addsBegin, end }: SpecialTokens,
  positions: number,
): readonly number[] {
  const own = tokenizer.encode(prompt);
  const first = begin ?? end[0];
  const tokens = first !== undefined && (addsBegin || own.length === 0) ? [first, ...own] : own;
  if (tokens.length > 0 && tokens.length <= positions) return tokens;
  const what =
    tokens.length === 0
      ? "--prompt is empty, and the model names no token that begins a text"
      : `--prompt has ${tokens.length} tokens, the model takes at most ${positions}`;
  throw appErrors.error("OPTION_INVALID", what, {
    hint: tokens.length === 0 ? "Give a text to go on from." : "Shorten the prompt.",
  });
}

/** Tells text as tokens come, but no part of a character: several tokens may make one. */
function textStream(
  tokenizer: Tokenizer,
  promptTokens: readonly number[],
  onText: (part: string) => void,
) {
  // Decoded with the prompt, because a first token may lose its blank.
  const before = tokenizer.decode(promptTokens).length;
  const tokens: number[] = [];
  let text = "";
  const tell = (whole: string) => {
    if (whole.length > text.length) onText(whole.slice(text.length));
    text = whole;
  };
  const decoded = () => tokenizer.decode([...promptTokens, ...tokens]).slice(before);
  return {
    add: (token: number) => {
      tokens.push(token);
      const whole = decoded();
      if (!whole.endsWith("\ufffd")) tell(whole);
    },
    end: () => {
      tell(decoded());
      return { text, tokens };
    },
  };
}

function noLanguageModel(adapter: string | undefined): Error {
  return appErrors.error("OPTION_INVALID", `${adapter} holds a classifier, not a language model`, {
    hint: "Train an adapter by `trifold train --head lm`, or leave --adapter out.",
  });
}
