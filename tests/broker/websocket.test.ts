import { once } from "node:events";
import { connect as connectSocket } from "node:net";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import { type Broker, type BrokerOptions, startBroker } from "../../broker/index.ts";

const credentials = new Map([["pi-4", "board key"]]);

t.test("a stranger's WebSocket message is not collected", async (t) => {
  const lines: string[] = [];
  const broker = await start(t, {
    log: (line) => lines.push(line),
  });
  const stranger = connectSocket(broker.port, "127.0.0.1");
  const request = [
    "GET /mqtt HTTP/1.1",
    "Host: broker",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol: mqtt",
  ];
  stranger.on("error", () => {});
  stranger.write(`${request.join("\r\n")}\r\n\r\n`);
  await once(stranger, "data");
  // RFC 6455 section 5.2: a masked binary frame that declares 1 MB, and 20 KB of it.
  stranger.write(Buffer.of(0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0));
  stranger.write(Buffer.alloc(20 * 1024));
  await once(stranger.resume(), "close");
  t.match(lines, [/more than 16384 bytes from a stranger/]);
});

t.test(
  "a WebSocket needs the path, the subprotocol, binary messages, and no browser",
  async (t) => {
    const lines: string[] = [];
    const options = {
      listeners: [{ scheme: "ws" as const }],
      log: (line: string) => lines.push(line),
    };
    const broker = await start(t, options);
    const origin = "http://evil.example";
    const attempts: [string, string[], string, { origin?: string }][] = [
      ["404", ["mqtt"], broker.url.replace("/mqtt", "/other"), {}],
      ["400", ["amqp"], broker.url, {}],
      ["403", ["mqtt"], broker.url, { origin }],
    ];
    for (const [status, protocols, url, headers] of attempts) {
      const [error] = await once(new WebSocket(url, protocols, headers), "error").catch((e) => [e]);
      t.match((error as Error).message, status);
    }
    t.match(lines, [/path/, /subprotocol/, /browser/]);
    const text = new WebSocket(broker.url, "mqtt");
    await once(text, "open");
    text.send("text");
    await once(text, "close");
    const protectedBroker = await start(t, { ...options, credentials });
    const page = new WebSocket(protectedBroker.url, "mqtt", { origin });
    await once(page, "open");
    page.terminate();
  },
);

async function start(t: Test, options: Omit<BrokerOptions, "listeners">): Promise<Broker> {
  const broker = await startBroker({ listeners: [{ scheme: "ws" }], ...options });
  t.teardown(() => broker.close());
  return broker;
}
