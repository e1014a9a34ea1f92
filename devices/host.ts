// The machine this program runs on where it has no Linux files to read, asked through `systeminformation`:
// the only door to that library.

/** What can be told of any host. */
export interface HostFacts {
  readonly model?: string;
  readonly totalBytes: number;
  readonly availableBytes: number;
  readonly cores: number;
}

/** Asks the operating system. Slow (starts programs on some systems), so only for what the files did not tell. */
export async function hostFacts(): Promise<HostFacts> {
  // Loaded only here: a board never needs it, and memory is dear there.
  const { default: system } = await import("systeminformation");
  const [{ manufacturer, model }, memory, cpu] = await Promise.all([
    system.system(),
    system.mem(),
    system.cpu(),
  ]);
  const name = `${manufacturer} ${model}`.trim() || cpu.brand;
  return {
    ...(name ? { model: name.slice(0, 200) } : {}),
    totalBytes: memory.total,
    availableBytes: memory.available,
    cores: cpu.cores,
  };
}
