// What the broker tests share: a network that can be cut, a Mosquitto when there is one, and messages to wait for.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Transport, TransportMessage } from "../../broker/index.ts";

/** A TCP hop in front of a port whose wire can be cut. */
export interface Hop {
  readonly port: number;
  cut(): void;
  restore(): void;
  close(): Promise<void>;
}

/** Starts a hop to `target` on loopback; `pass` carries bytes and end of one socket to the other. */
export async function startHop(
  target: number,
  pass: (from: Socket, to: Socket) => void = passAll,
): Promise<Hop> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer({ noDelay: true }, (near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect({ port: target, host: "127.0.0.1", noDelay: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => sockets.delete(socket));
      pass(socket, other);
    }
  });
  const cut = () => {
    isCut = true;
    for (const socket of sockets) {
      socket.resetAndDestroy();
    }
  };
  return {
    port: await listen(server),
    cut,
    restore: () => {
      isCut = false;
    },
    close: async () => {
      cut();
      server.close();
      await once(server, "close");
    },
  };
}

function passAll(from: Socket, to: Socket): void {
  from.pipe(to);
  from.once("close", () => to.destroy());
}

/** A TCP hop that can be shut: bytes and ends of connections wait behind it, as on a radio link that is out of reach. */
export interface Gate {
  readonly port: number;
  shut(): void;
  open(): void;
  close(): Promise<void>;
}

/** Starts a gate to `target` on loopback. */
export async function startGate(target: number): Promise<Gate> {
  const later: (() => void)[] = [];
  let isShut = false;
  const passes = (action: () => void) => {
    if (isShut) later.push(action);
    else action();
  };
  const hop = await startHop(target, (from, to) => {
    from.once("close", () => passes(() => to.destroy()));
    from.on("data", (bytes) => passes(() => void to.write(bytes)));
  });
  return {
    port: hop.port,
    shut: () => {
      isShut = true;
    },
    open: () => {
      isShut = false;
      for (const action of later.splice(0)) action();
    },
    close: hop.close,
  };
}

/** Listens on a free loopback port. */
export async function listen(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as { port: number }).port;
}

/** Messages of a filter as they arrive. */
export interface Inbox {
  readonly messages: readonly TransportMessage[];
  /** The first `count` texts; waits until they are there. */
  texts(count: number): Promise<string[]>;
}

/** Subscribes and collects. */
export async function collect(transport: Transport, filter: string): Promise<Inbox> {
  const messages: TransportMessage[] = [];
  const waiting = new Set<() => void>();
  await transport.subscribe(filter, (message) => {
    messages.push(message);
    for (const wake of [...waiting]) {
      wake();
    }
  });
  const texts = (count: number) =>
    new Promise<string[]>((resolve) => {
      const look = () => {
        if (messages.length >= count) {
          waiting.delete(look);
          resolve(messages.slice(0, count).map(({ bytes }) => Buffer.from(bytes).toString()));
        }
      };
      waiting.add(look);
      look();
    });
  return { messages, texts };
}

/** Resolves when the transport is connected (again). */
export function connected(transport: Transport): Promise<void> {
  return new Promise((resolve) => {
    const stop = transport.onConnected(() => {
      stop();
      resolve();
    });
  });
}

/** Resolves when the transport has lost its connection. */
export function disconnected(transport: Transport): Promise<void> {
  return new Promise((resolve) => {
    const stop = transport.onDisconnected(() => {
      stop();
      resolve();
    });
  });
}

/** Why Mosquitto cannot be tested here, or undefined. */
export function mosquittoMissing(): string | undefined {
  const { error } = spawnSync("mosquitto", ["-h"], { env: searchPath() });
  return error === undefined ? undefined : "mosquitto is not installed";
}

/** A Mosquitto with these settings below its listener on a free port; its files go to `folder`. */
export async function startMosquitto(
  folder: string,
  settings: readonly string[] = ["allow_anonymous true"],
): Promise<{ port: number; close(): Promise<void> }> {
  const probe = createServer();
  const port = await listen(probe);
  probe.close();
  await once(probe, "close");
  const config = join(folder, "mosquitto.conf");
  const lines = [`listener ${port} 127.0.0.1`, "set_tcp_nodelay true", ...settings];
  writeFileSync(config, `${lines.join("\n")}\n`);
  const child = spawn("mosquitto", ["-c", config], { env: searchPath() });
  await running(child);
  return {
    port,
    close: async () => {
      child.kill();
      await once(child, "exit");
    },
  };
}

/** Debian installs it where only root looks. */
function searchPath(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
}

function running(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let log = "";
    child.stderr?.on("data", (chunk) => {
      log += chunk;
      if (log.includes(" running")) {
        resolve();
      }
    });
    child.on("error", reject);
    child.on("exit", () => reject(new Error(`mosquitto did not start: ${log}`)));
  });
}
