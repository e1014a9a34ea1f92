// The package has no types of its own.
declare module "aedes-persistence-level" {
  /** What aedes takes as its `persistence`, which aedes does not type either. */
  const levelPersistence: (database: import("classic-level").ClassicLevel) => unknown;
  export = levelPersistence;
}
