// The package has no types of its own; Aedes takes any persistence.
declare module "aedes-persistence-level" {
  // biome-ignore lint/style/noDefaultExport: it is the package's own
  export default function createPersistence(database: unknown): unknown;
}
