// Buffers that travel to the worker and come back. A step copies the same sizes again and again; as garbage they would
// stand in memory until V8 finds it worth a collection, which with memory outside its heap is late.

/** Buffers by length. No more are kept than were on their way at once. */
export interface BufferPool {
  /** A copy of `data` that fills a buffer of its own: one that came back where there is one. */
  copy<T extends Float32Array | BigInt64Array | Int8Array>(data: T): T;
  /** Takes a buffer back. */
  give(buffer: ArrayBuffer): void;
}

/** An empty pool. */
export function bufferPool(): BufferPool {
  const free = new Map<number, ArrayBuffer[]>();
  return {
    copy: (data) => {
      const buffer = free.get(data.byteLength)?.pop();
      if (buffer === undefined) return data.slice() as typeof data;
      const bytes = new Uint8Array(buffer);
      bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      // Its own kind of array over the whole buffer.
      return new (data.constructor as new (over: ArrayBuffer) => typeof data)(buffer);
    },
    give: (buffer) => {
      const same = free.get(buffer.byteLength) ?? [];
      same.push(buffer);
      free.set(buffer.byteLength, same);
    },
  };
}
