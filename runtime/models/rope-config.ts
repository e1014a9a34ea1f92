// Rotary positions as config.json holds them: `rope_theta` with `rope_scaling`, or, in newer files, both in
// `rope_parameters`.
import { z } from "zod";
import type { LlamaConfig } from "./config.ts";
import { type ConfigSource, parseFields, unsupported } from "./config-fields.ts";

type Rope = Pick<LlamaConfig, "ropeTheta" | "ropeScaling">;

/** Base and stretching of the rotary frequencies; throws `MODEL_UNSUPPORTED` for a kind that we do not compute. */
export function parseRope(source: ConfigSource): Rope {
  const { file } = source;
  const { rope_theta: theta, rope_scaling: scaling, ...newer } = parseFields(source, schema);
  const parameters = newer.rope_parameters ?? undefined;
  if (parameters !== undefined && (scaling ?? undefined) !== undefined) {
    throw unsupported(file, "rope_scaling", {
      value: scaling,
      expected: "null beside rope_parameters",
    });
  }
  const where = parameters === undefined ? "rope_scaling" : "rope_parameters";
  const inner = parameters ?? scaling ?? {};
  refuseOtherKeys(file, where, inner);
  const innerTheta = inner.rope_theta;
  if (theta !== undefined && innerTheta !== undefined && theta !== innerTheta) {
    const expected = `${theta}, as rope_theta says`;
    throw unsupported(file, `${where}.rope_theta`, { value: innerTheta, expected });
  }
  for (const value of [newer.partial_rotary_factor, inner.partial_rotary_factor]) {
    if ((value ?? 1) === 1) continue;
    throw unsupported(file, "partial_rotary_factor", { value, expected: "1" });
  }
  return {
    ropeTheta: innerTheta ?? theta ?? 10_000,
    ropeScaling: parseScaling(source, where, inner),
  };
}

/** The fields that say so in files of any age. */
export function ropeFields({ ropeTheta, ropeScaling }: Rope): Readonly<Record<string, unknown>> {
  if (ropeScaling === null) return { rope_scaling: null, rope_theta: ropeTheta };
  return {
    rope_scaling: {
      factor: ropeScaling.factor,
      high_freq_factor: ropeScaling.highFrequencyFactor,
      low_freq_factor: ropeScaling.lowFrequencyFactor,
      original_max_position_embeddings: ropeScaling.originalPositions,
      rope_type: "llama3",
    },
    rope_theta: ropeTheta,
  };
}

const positive = z.number().positive();
const inner = z
  .looseObject({ rope_theta: positive.optional(), partial_rotary_factor: z.number().nullish() })
  .nullish();
const schema = z.looseObject({
  rope_theta: positive.optional(),
  partial_rotary_factor: z.number().nullish(),
  rope_scaling: inner,
  rope_parameters: inner,
});

const llama3Schema = z.looseObject({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: positive,
});

const knownKeys: readonly string[] = [
  ...["rope_type", "type", "rope_theta", "partial_rotary_factor"],
  ...Object.keys(llama3Schema.shape),
];

/** Another kind's setting, or settings for each kind of layer apart. */
function refuseOtherKeys(file: string, where: string, fields: Readonly<Record<string, unknown>>) {
  const other = Object.keys(fields).find((key) => !knownKeys.includes(key));
  if (other === undefined) return;
  const expected = `none but ${knownKeys.join(", ")}`;
  throw unsupported(file, `${where}.${other}`, { value: fields[other], expected });
}

function parseScaling(
  { file }: ConfigSource,
  where: string,
  fields: Readonly<Record<string, unknown>>,
): LlamaConfig["ropeScaling"] {
  // Older files call it `type`.
  const kind = fields["rope_type"] ?? fields["type"] ?? "default";
  if (kind === "default") return null;
  if (kind !== "llama3") {
    const expected = '"default" or "llama3"';
    throw unsupported(file, `${where}.rope_type`, { value: kind, expected });
  }
  const scaling = parseFields({ file: `${file}: ${where}`, fields }, llama3Schema);
  const { low_freq_factor: low, high_freq_factor: high } = scaling;
  if (low >= high) {
    const expected = `less than high_freq_factor ${high}`;
    throw unsupported(file, `${where}.low_freq_factor`, { value: low, expected });
  }
  return {
    factor: scaling.factor,
    lowFrequencyFactor: low,
    highFrequencyFactor: high,
    originalPositions: scaling.original_max_position_embeddings,
  };
}
