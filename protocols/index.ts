// What is agreed: the seam, selection, rounds, the three frameworks, aggregation and encodings.
export * from "./aggregation/index.ts";
export { fromSection, intoSection } from "./bundles.ts";
export {
  readSection,
  type SectionChanges,
  type SectionName,
  stageSections,
  withoutSections,
} from "./client-memory.ts";
export * from "./cohort.ts";
export * from "./contract/index.ts";
export { wholeModelCost } from "./cost.ts";
export * from "./delivery-lane.ts";
export * from "./encoding/index.ts";
export * from "./encoding/residual.ts";
export * from "./errors.ts";
export * from "./exclusions.ts";
export type { DeviceState, RoundExperience } from "./experience.ts";
export * from "./fold-round.ts";
export { fullDownKinds, fullUpKinds } from "./full/messages.ts";
export * from "./global-model.ts";
export { kdDownKinds, kdUpKinds } from "./kd/messages.ts";
export * from "./kept-rows.ts";
export * from "./local-training.ts";
export * from "./loopback-link.ts";
export * from "./own-model.ts";
export * from "./payload.ts";
export * from "./plan.ts";
export type * from "./protocol.ts";
export * from "./registry.ts";
export * from "./revision.ts";
export * from "./round.ts";
export * from "./selection.ts";
export { splitDownKinds, splitUpKinds } from "./split/messages.ts";
export * from "./task.ts";
export * from "./update-buffer.ts";
export { type Allowance, labelOf, type Way, wayOf } from "./way.ts";
export * from "./weight.ts";
