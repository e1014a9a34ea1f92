// The coordinator ends of the protocols, created when the first lane needs one.
import {
  type AnyProtocol,
  findProtocol,
  type Payload,
  type ServerContext,
  type ServerSide,
} from "../../protocols/index.ts";

/** Server sides by protocol name. */
export interface Servers {
  get(
    name: string,
    version: number,
  ): Promise<{ readonly protocol: AnyProtocol; readonly server: ServerSide<Payload, Payload> }>;
  /** Those that were needed so far, in name order. */
  open(): Promise<readonly (readonly [string, ServerSide<Payload, Payload>])[]>;
  close(): Promise<void>;
}

/** No server side yet. */
export function createServers(protocols: readonly AnyProtocol[], context: ServerContext): Servers {
  const servers = new Map<string, Promise<ServerSide<Payload, Payload>>>();
  const open = async () => {
    const names = [...servers.keys()].sort();
    return Promise.all(
      names.map(async (name) => [name, await servers.get(name)] as const),
    ) as ReturnType<Servers["open"]>;
  };
  return {
    get: async (name, version) => {
      const protocol = findProtocol(protocols, name, version);
      const creating = servers.get(name) ?? protocol.createServer(context);
      servers.set(name, creating);
      return { protocol, server: await creating };
    },
    open,
    close: async () => {
      for (const [, server] of await open()) await server.close();
      servers.clear();
    },
  };
}
