// A device and a coordinator joined by links, and ways to trouble them.
import type { Test } from "tap";
import {
  coordinatorLinkTopics,
  createLink,
  createMemoryHub,
  deviceLinkTopics,
  type LinkOptions,
  type RequestHandler,
  type Transport,
} from "../../broker/index.ts";
import { randomStream } from "../../runtime/index.ts";
import type { ManualClock } from "./manual-clock.ts";

/** The federation of these tests. */
export const federation = "farm";

/** Their device. */
export const deviceId = "pi-4";

/** Answers with what it was asked. */
export const echo: RequestHandler = async ({ fields, blobs }) => ({ kind: "echo", fields, blobs });

/** How the peers differ from the default. */
export interface JoinOptions extends Partial<Omit<LinkOptions, "transport" | "clock">> {
  readonly clock?: ManualClock;
  readonly device?: RequestHandler;
  readonly wrap?: (transport: Transport) => Transport;
}

/** A device and a coordinator over one hub, with the parts that a test takes away. */
export async function join(
  t: Test,
  onRequest: RequestHandler | undefined,
  options: JoinOptions = {},
) {
  const { device: onDeviceRequest, wrap = (transport: Transport) => transport, ...both } = options;
  const { pieces: kept, ...rest } = both;
  // The coordinator's: two ends do not share a folder.
  const pieces = kept === undefined ? {} : { pieces: kept };
  const hub = createMemoryHub();
  t.teardown(() => hub.close());
  const shared = { federation, log: () => {}, ...rest };
  const connect = async (clientId: string) => hub.connect({ clientId });
  const transports = { device: await connect(deviceId), coordinator: await connect("coordinator") };
  let isPaused = false;
  const startCoordinator = (
    handler: RequestHandler | undefined,
    other: Partial<LinkOptions> = {},
  ) =>
    createLink({
      ...{ ...shared, ...pieces, ...other },
      ...coordinatorLinkTopics(federation, deviceId),
      transport: pausable(wrap(transports.coordinator), () => isPaused),
      self: "coordinator",
      peer: deviceId,
      ...(handler === undefined ? {} : { onRequest: handler }),
    });
  const startDevice = () =>
    createLink({
      ...shared,
      ...deviceLinkTopics(federation, deviceId),
      transport: wrap(transports.device),
      self: deviceId,
      peer: "coordinator",
      ...(onDeviceRequest === undefined ? {} : { onRequest: onDeviceRequest }),
    });
  return {
    hub,
    transports,
    options: shared,
    pause: {
      down: () => {
        isPaused = true;
      },
      up: () => {
        isPaused = false;
      },
    },
    device: await startDevice(),
    coordinator: await startCoordinator(onRequest),
    startCoordinator: async (handler: RequestHandler, other: Partial<LinkOptions> = {}) => {
      transports.coordinator = await connect("coordinator");
      return startCoordinator(handler, other);
    },
    startDevice: async () => {
      transports.device = await connect(deviceId);
      return startDevice();
    },
  };
}

/** Swallows what the coordinator says while paused. */
function pausable(transport: Transport, isPaused: () => boolean): Transport {
  return overriding(transport, {
    publish: (topic, bytes, options) =>
      isPaused() ? Promise.resolve() : transport.publish(topic, bytes, options),
  });
}

/** Lets so many frames of this length pass, and holds back what comes after them until it is opened. */
export function dam(frames: number, { ofBytes }: { readonly ofBytes: number }) {
  let passed = 0;
  const held: (() => void)[] = [];
  let isOpen = false;
  return {
    /** Whether it holds anything back. */
    holds: () => held.length > 0,
    open: () => {
      isOpen = true;
      for (const pass of held.splice(0)) pass();
    },
    wrap: (transport: Transport): Transport =>
      overriding(transport, {
        publish: async (topic, frame, options) => {
          if (passed === frames && !isOpen) await new Promise<void>((pass) => held.push(pass));
          passed += frame.byteLength >= ofBytes && !isOpen ? 1 : 0;
          await transport.publish(topic, frame, options);
        },
      }),
  };
}

/** A third of the frames is lost, doubled or late. */
export function lossy(transport: Transport, seed: number): Transport {
  const random = randomStream("lossy", seed, transport.clientId);
  const late: (() => void)[] = [];
  return overriding(transport, {
    publish: async (topic, bytes, options) => {
      const fate = random.next();
      const send = () => transport.publish(topic, bytes, options);
      if (fate < 0.12) {
        return;
      }
      if (fate < 0.22) {
        late.push(() => void send());
        return;
      }
      await send();
      if (fate < 0.33) {
        await send();
      }
      late.splice(0).forEach((sendLate) => {
        sendLate();
      });
    },
  });
}

/** The transport with some of its methods replaced. */
function overriding(transport: Transport, methods: Partial<Transport>): Transport {
  return {
    clientId: transport.clientId,
    traffic: transport.traffic,
    get connected() {
      return transport.connected;
    },
    get connection() {
      return transport.connection;
    },
    publish: (...args) => transport.publish(...args),
    subscribe: (...args) => transport.subscribe(...args),
    queue: () => transport.queue(),
    onConnected: (callback) => transport.onConnected(callback),
    onDisconnected: (callback) => transport.onDisconnected(callback),
    onClosed: (callback) => transport.onClosed(callback),
    close: (...args) => transport.close(...args),
    ...methods,
  };
}

/** Lets everything happen that needs no time. */
export async function settle(turns = 50): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Lets things happen until it is so. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) {
    await settle(1);
  }
}

/** Moves the clock on whenever nothing happens by itself. */
export async function withTime<T>(clock: ManualClock, work: Promise<T>): Promise<T> {
  let isDone = false;
  const finished = work.finally(() => {
    isDone = true;
  });
  while (!isDone) {
    await settle();
    clock.advance(60_000);
  }
  return finished;
}

/** Bytes that look random, the same for each seed. */
export function noise(length: number, seed: number): Uint8Array {
  const random = randomStream("noise", seed);
  return Uint8Array.from({ length }, () => random.below(256));
}

/** Whether both are there and alike. */
export function equal(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0;
}
