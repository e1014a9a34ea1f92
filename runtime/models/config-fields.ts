// Fields of a config.json: the checks that all model types share. Whatever would change the numbers in a way
// that we do not compute is refused by name.
import { z } from "zod";
import { runtimeErrors } from "../errors.ts";

/** A parsed config.json and the file that errors name. */
export interface ConfigSource {
  readonly file: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Settings with the values that we compute; the first is what an absent field means. */
export type ComputedValues = Readonly<Record<string, readonly unknown[]>>;

/** A size from 1 to a limit far above any model, so that no size computed from them overflows. */
export const size = (limit: number) => z.int().min(1).max(limit);

/** Fields that padding is chosen from. */
export const tokenIdFields = {
  pad_token_id: z.int().nullish(),
  eos_token_id: z.union([z.int(), z.array(z.int())]).nullish(),
};

/** The fields that `schema` asks for; throws `MODEL_FOLDER_INVALID` naming those that do not fit. */
export function parseFields<T>({ file, fields }: ConfigSource, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(fields);
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(
    (issue) => `${issue.path.join(".") || "the document"}: ${issue.message}`,
  );
  throw runtimeErrors.error("MODEL_FOLDER_INVALID", `${file}: ${faults.join("; ")}`, {
    hint: "Use the config.json that belongs to the weights.",
  });
}

/** Throws `MODEL_UNSUPPORTED` naming the first setting with a value that we do not compute. */
export function refuseOtherValues({ file, fields }: ConfigSource, computed: ComputedValues): void {
  for (const [field, values] of Object.entries(computed)) {
    const value = fields[field] ?? values[0];
    if (values.includes(value)) continue;
    throw unsupported(file, field, {
      value: fields[field],
      expected: values.map((known) => JSON.stringify(known)).join(" or "),
    });
  }
}

/** The first declared id that the vocabulary holds: small models often keep those of larger ones. */
export function padTokenId(
  { pad_token_id: pad, eos_token_id: eos }: z.infer<z.ZodObject<typeof tokenIdFields>>,
  vocabSize: number,
): number {
  const candidates = [pad, ...(Array.isArray(eos) ? eos : [eos]), 0];
  const isHeld = (id: number | null | undefined) =>
    typeof id === "number" && id >= 0 && id < vocabSize;
  return candidates.find(isHeld) ?? 0;
}

/** The error for a setting that we do not compute. */
export function unsupported(
  file: string,
  field: string,
  { value, expected }: { readonly value: unknown; readonly expected: string },
) {
  const actual = value === undefined ? "absent" : JSON.stringify(value).slice(0, 200);
  return runtimeErrors.error(
    "MODEL_UNSUPPORTED",
    `${file}: ${field} is ${actual}, expected ${expected}`,
    { hint: "runtime/README.md says which models and settings Trifold computes." },
  );
}
