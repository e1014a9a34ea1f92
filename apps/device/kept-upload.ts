// The last message of a round on the device's disk until the coordinator has it: a power cut between training and delivery
// does not cost the training. One at most, in the size that a message may have.
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { decodeEnvelope, encodeEnvelope, type LanePlace } from "../../broker/index.ts";
import type { Payload } from "../../protocols/index.ts";
import { writeFileAtomic } from "../../runtime/index.ts";
import { type DeviceRoundReport, reportSchema } from "../control-messages.ts";

/** A finished round that may not have been delivered. */
export interface KeptUpload {
  readonly place: LanePlace;
  /** Of the message in its lane. */
  readonly sequence: number;
  readonly up: Payload;
  readonly report: DeviceRoundReport;
}

/** Where one device keeps it in one task. */
export interface UploadKeeper {
  /** Survives a power cut once this resolves. */
  keep(upload: KeptUpload): Promise<void>;
  /** Undefined when there is none, or what is there is damaged. */
  read(): Promise<KeptUpload | undefined>;
  forget(): Promise<void>;
}

const fieldsSchema = z.strictObject({
  sequence: z.int().positive(),
  payload: z.strictObject({ kind: z.string(), fields: z.record(z.string(), z.unknown()) }),
  report: reportSchema,
});

/** The keeper of a device's state folder for a task. */
export function createUploadKeeper(folder: string, deviceId: string): UploadKeeper {
  const file = join(folder, "upload.envelope");
  return {
    keep: async ({ place, sequence, up, report }) => {
      const { tensors, blobs = new Map(), ...payload } = up;
      const nowhere = { federation: "device", task: "", instance: "0".repeat(16), sequence: 1 };
      const fields = { sequence, payload, report };
      const said = { sender: deviceId, kind: "upload", fields, tensors, blobs };
      await writeFileAtomic(file, await encodeEnvelope({ ...nowhere, ...place, ...said }));
    },
    read: async () => {
      if (!existsSync(file)) return undefined;
      try {
        const envelope = await decodeEnvelope(await readFile(file));
        const { sequence, payload, report } = fieldsSchema.parse(envelope.fields);
        const { round, attempt, lane, tensors, blobs } = envelope;
        const up = { ...payload, tensors, blobs };
        return { place: { round, attempt, lane }, sequence, up, report };
      } catch {
        // Of a former release: its round is over by now.
        return undefined;
      }
    },
    forget: () => rm(file, { force: true }),
  };
}
