// Writes asyncapi.yaml from the schemas of the wire: node dist/scripts/asyncapi.js. A test holds both equal, the document to
// AsyncAPI's own schema, and the traffic of a federation to the document.
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import { z } from "zod";
import { heartbeatSchema } from "../apps/heartbeat.ts";
import { headerSchema, ownTopicProbeSchema, statusSchema, wireVersion } from "../broker/index.ts";
import type { KindSchemas } from "../protocols/index.ts";
import {
  type Exchange,
  errorReply,
  exchanges,
  lanePayloads,
  type WireMessage,
} from "./wire-messages.ts";

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>;

/** The coordinator as AsyncAPI 3.0.0 describes an application; a device does the opposite of each operation. */
export function asyncapiDocument(): Json {
  return {
    asyncapi: "3.0.0",
    info: {
      title: "Trifold coordinator",
      version: String(wireVersion),
      description: introduction,
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
    },
    defaultContentType: envelopeType,
    channels: {
      deviceStatus: deviceChannel(
        "status",
        "Retained: what a device is, and whether it is there.",
        ["status", "ownTopicProbe"],
      ),
      deviceUp: deviceChannel("up", "Frames to the coordinator.", namesOn("up")),
      deviceDown: deviceChannel("down", "Frames to one device.", namesOn("down")),
      deviceProbe: deviceChannel("probe", "What a device sends itself to time its link.", [
        "zeros",
      ]),
      coordinatorStatus: {
        address: `${root}/coordinator/status`,
        description: "Retained: the task, and how far it is.",
        parameters: { federation: parameters.federation },
        messages: refs(["status", "ownTopicProbe"]),
      },
    },
    operations: {
      watchDevices: { action: "receive", channel: ref("channels", "deviceStatus") },
      showStatus: { action: "send", channel: ref("channels", "coordinatorStatus") },
      ...Object.fromEntries(
        exchanges.map((exchange) => [exchange.request.kind, operationOf(exchange)]),
      ),
    },
    components: { messages: componentMessages(), schemas: componentSchemas() },
  };
}

/** Name of a message among the document's components. */
export function messageName(kind: string, is: "request" | "reply"): string {
  return `${kind}.${is}`;
}

/** Name of a lane payload's fields among the document's schemas. */
export function payloadName(protocol: string, way: "up" | "down", kind: string): string {
  return `${protocol}.${way}.${kind}`;
}

const root = `trifold/${wireVersion}/{federation}`;
const envelopeType = "application/vnd.trifold.envelope";
const parameters = {
  federation: {
    description: "Name of the federation: 1 to 64 letters, digits, dashes, underscores.",
  },
  device: { description: "Id of the device, of the same form; not `coordinator`." },
};
const introduction = [
  "Messages of one coordinator and its devices over MQTT 3.1.1. Statuses are JSON. Everything else is an",
  "envelope (a checked msgpack header, then tensors and files) that travels in frames no larger than a stock",
  "broker's limit; broker/README.md has the bytes of both. Payloads below are the headers of envelopes,",
  "decoded. Every request is answered by its reply or by `error`. Lane messages carry a payload of the device's",
  "protocol: schemas `<protocol>.<way>.<kind>` are the fields of those that are built in.",
].join(" ");

function deviceChannel(channel: string, description: string, names: readonly string[]): Json {
  return {
    address: `${root}/devices/{device}/${channel}`,
    description,
    parameters,
    messages: refs(names),
  };
}

/** Names of the messages that the topic carries. */
function namesOn(way: "up" | "down"): readonly string[] {
  const own = exchanges.map(({ asks, request, reply }) =>
    (asks === "device") === (way === "up")
      ? messageName(request.kind, "request")
      : messageName(reply.kind, "reply"),
  );
  return [...new Set([...own, messageName(errorReply.kind, "reply")])];
}

function operationOf({ asks, request, reply }: Exchange): Json {
  const [there, back] = asks === "device" ? ["deviceUp", "deviceDown"] : ["deviceDown", "deviceUp"];
  const on = (channel: string, name: string) => ref("channels", channel, "messages", name);
  const answers = [messageName(reply.kind, "reply"), messageName(errorReply.kind, "reply")];
  return {
    action: asks === "device" ? "receive" : "send",
    summary: request.summary,
    channel: ref("channels", there as string),
    messages: [on(there as string, messageName(request.kind, "request"))],
    reply: {
      channel: ref("channels", back as string),
      messages: answers.map((name) => on(back as string, name)),
    },
  };
}

function componentMessages(): Json {
  const of = (is: "request" | "reply", { kind, summary, fields }: WireMessage) => {
    const own = { properties: { kind: { const: kind }, fields: schemaOf(fields) } };
    const payload = { allOf: [ref("components", "schemas", "header"), own] };
    return [messageName(kind, is), { name: kind, summary, payload }] as const;
  };
  return {
    status: {
      summary: "JSON; members beside these are details.",
      contentType: "application/json",
      payload: ref("components", "schemas", "status"),
    },
    ownTopicProbe: {
      summary: "Not retained: who reads his own status topic waits for it to come back. Ignore it.",
      contentType: "application/json",
      payload: ref("components", "schemas", "ownTopicProbe"),
    },
    zeros: { summary: "Zeros.", contentType: "application/octet-stream" },
    ...Object.fromEntries([
      ...exchanges.flatMap(({ request, reply }) => [of("request", request), of("reply", reply)]),
      of("reply", errorReply),
    ]),
  };
}

function componentSchemas(): Json {
  const payloads = Object.entries(lanePayloads).flatMap(([protocol, { up, down }]) => {
    const named = (way: "up" | "down", kinds: KindSchemas) =>
      Object.entries(kinds).map(
        ([kind, fields]) => [payloadName(protocol, way, kind), schemaOf(fields)] as const,
      );
    return [...named("up", up), ...named("down", down)];
  });
  return {
    header: schemaOf(headerSchema),
    status: schemaOf(statusSchema.extend({ heartbeat: heartbeatSchema.exactOptional() })),
    ownTopicProbe: schemaOf(ownTopicProbeSchema),
    ...Object.fromEntries(payloads),
  };
}

/** JSON Schema draft 7, which is AsyncAPI's own; what it cannot say, such as that names differ, is left out. */
function schemaOf(schema: z.ZodType): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { target: "draft-7", io: "input" });
  return rest;
}

function refs(names: readonly string[]): Json {
  return Object.fromEntries(names.map((name) => [name, ref("components", "messages", name)]));
}

const pointer = "$ref";

function ref(...path: readonly string[]): Json {
  return { [pointer]: `#/${path.join("/")}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFile("asyncapi.yaml", stringify(asyncapiDocument(), { aliasDuplicateObjects: false }));
}
