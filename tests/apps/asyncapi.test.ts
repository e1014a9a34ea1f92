// asyncapi.yaml: made of the code's schemas, valid by AsyncAPI's own schema, and true of what travels.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import specifications from "@asyncapi/specs";
import { Ajv } from "ajv";
import t from "tap";
import { parse } from "yaml";
import type { Envelope } from "../../broker/index.ts";
import { asyncapiDocument, type Json, messageName, payloadName } from "../../scripts/asyncapi.ts";
import { lanePayloads } from "../../scripts/wire-messages.ts";
import { federate, makeWorld, writeTask } from "./small-federation.ts";
import { startWiretap, type Wiretap } from "./wiretap.ts";

/** By device. */
const protocols: Readonly<Record<string, string>> = { a: "full", b: "kd", c: "split" };
const document = parse(readFileSync("asyncapi.yaml", "utf8")) as Json;

t.test("the file is made of the schemas that both ends check with", async (t) => {
  const made = JSON.parse(JSON.stringify(asyncapiDocument()));
  t.same(document, made, "made anew by: node dist/scripts/asyncapi.js");
});

t.test("the file is AsyncAPI 3.0.0", async (t) => {
  const specification = specifications.schemasWithoutId["3.0.0"] as Json;
  const ajv = new Ajv({ strict: false, validateFormats: false });
  t.ok(ajv.validate(specification, document), ajv.errorsText());
});

t.test("a federation of all three frameworks says what the file says", async (t) => {
  const world = await makeWorld(t.testdir());
  const task = await writeTask(world, "described", {
    cohort: { minimumDevices: 3 },
    assignments: Object.entries(protocols).map(([id, protocol]) => {
      const cut = protocol === "split" ? { cutLayer: 1 } : {};
      return { devices: [id], protocol, ...cut, force: true };
    }),
    split: { reuse: { threshold: 0.05 } },
  });
  const taps: Wiretap[] = [];
  await federate(world, {
    task,
    run: join(world.folder, "run"),
    devices: Object.keys(protocols).map((id, place) => ({ id, isBare: place === 0 })),
    addressFor: async (url) => {
      const tap = await startWiretap(Number(new URL(url).port));
      taps.push(tap);
      return tap.url;
    },
  });
  const problems = schemaProblems();
  const [tap] = taps as [Wiretap];
  const envelopes = await tap.envelopes();
  const statuses = tap.statuses();
  await tap.close();
  t.same(
    statuses.flatMap((status) => problems(`#/components/schemas/${statusName(status)}`, status)),
    [],
  );
  t.same(
    envelopes.flatMap((envelope) => envelopeProblems(problems, envelope)),
    [],
  );
  const seen = new Set(envelopes.map((envelope) => nameOf(envelope)));
  const rare = ["refused.request", "refused.reply", "failed.request", "error.reply"];
  const { messages } = document["components"] as { messages: Json };
  const described = Object.keys(messages).filter((name) => name.includes("."));
  t.same(
    [...seen].sort(),
    described.filter((name) => !rare.includes(name)).sort(),
    "and all of it",
  );
  t.ok(statuses.length > 3, "statuses travelled");
  const spoiled = { ...(envelopes[0] as Envelope), round: -1 };
  t.not(envelopeProblems(problems, spoiled).length, 0, "what is not so would be found");
});

/** What speaks against a value by a schema of the document. */
function schemaProblems(): (pointer: string, value: unknown) => string[] {
  const ajv = new Ajv({ strict: false, validateFormats: false });
  ajv.addSchema(document, "asyncapi");
  return (pointer, value) => {
    const validate = ajv.getSchema(`asyncapi${pointer}`);
    if (!validate) return [`nothing at ${pointer}`];
    return validate(value) ? [] : [`${pointer}: ${ajv.errorsText(validate.errors)}`];
  };
}

/** The envelope's header by its message's schema, and a lane's payload by its protocol's. */
function envelopeProblems(
  problems: ReturnType<typeof schemaProblems>,
  envelope: Envelope,
): string[] {
  const { instance: _, sequence: __, replyTo: ___, tensors, blobs, ...header } = envelope;
  const bodies = {
    tensors: [...tensors].map(([name, { shape, encoding, bytes }]) => {
      return { name, shape, encoding, byteLength: bytes.byteLength };
    }),
    blobs: [...blobs].map(([name, { byteLength }]) => ({ name, byteLength })),
  };
  const own = problems(`#/components/messages/${nameOf(envelope)}/payload`, {
    ...header,
    ...bodies,
  });
  const payload = envelope.fields["payload"] as { kind: string; fields: Json } | undefined;
  if (!payload) return own;
  const way = envelope.sender === "coordinator" ? "down" : "up";
  const protocol = protocols[envelope.sender] ?? speakerOf(payload.kind);
  const schema = `#/components/schemas/${payloadName(protocol, way, payload.kind)}`;
  return [...own, ...problems(schema, payload.fields)];
}

/** The protocol whose coordinator end alone says this. */
function speakerOf(kind: string): string {
  return (
    Object.keys(lanePayloads).find((name) => Object.hasOwn(lanePayloads[name]?.down ?? {}, kind)) ??
    ""
  );
}

function statusName(status: unknown): string {
  return (status as { state?: unknown }).state === "probe" ? "ownTopicProbe" : "status";
}

function nameOf({ kind, replyTo }: Envelope): string {
  return messageName(kind, replyTo ? "reply" : "request");
}
