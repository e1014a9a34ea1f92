// Bundles of named tensors: scaled, and kept beside each other under the name of a section.
import { type Float32Tensor, float32, type Parameters } from "../runtime/index.ts";

/** Every value times `factor`; a factor of 1 gives the bundle itself. */
export function scaleBundle(bundle: Parameters, factor: number): Parameters {
  if (factor === 1) return bundle;
  return new Map([...bundle].map(([name, tensor]) => [name, scaleTensor(tensor, factor)]));
}

/** Every value times `factor`, of the same shape. */
export function scaleTensor({ shape, data }: Float32Tensor, factor: number): Float32Tensor {
  return float32(
    shape,
    data.map((value) => factor * value),
  );
}

/** The tensors under `<section>/<name>`. */
export function intoSection<Tensor>(
  section: string,
  tensors: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, Tensor> {
  return new Map([...tensors].map(([name, tensor]) => [`${section}/${name}`, tensor]));
}

/** The tensors of a section under their own names; empty where there are none. */
export function fromSection<Tensor>(
  section: string,
  all: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, Tensor> {
  const prefix = `${section}/`;
  const own = [...all].filter(([name]) => name.startsWith(prefix));
  return new Map(own.map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}

/** The section of a tensor's name. */
export function sectionOf(name: string): string {
  return name.split("/", 1)[0] ?? "";
}
