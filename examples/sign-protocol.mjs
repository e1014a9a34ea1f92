// EF-signSGD as a protocol of your own (Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1): a device sends one
// bit for each value of its update and one size for each tensor; what that loses it adds to its next update.
import * as p from "trifold/protocols";
import { elementCount, float32 } from "trifold/runtime";
import { z } from "zod";

const downKinds = { model: z.strictObject({}) };
const upKinds = { signs: z.strictObject(p.contributionFields) };
const bytesOf = (shape) => 4 + Math.ceil(elementCount(shape) / 8);

function encodeSigns({ data }) {
  const bytes = new Uint8Array(bytesOf([data.length]));
  const size = data.reduce((sum, value) => sum + Math.abs(value), 0) / data.length;
  new DataView(bytes.buffer).setFloat32(0, size, true);
  for (const [i, value] of data.entries()) if (value >= 0) bytes[4 + (i >> 3)] |= 1 << (i & 7);
  return bytes;
}

function decodeSigns(blobs = new Map(), shapes = new Map()) {
  const decodeOne = ([name, shape]) => {
    const bytes = blobs.get(name);
    const fits = bytes?.length === bytesOf(shape) && blobs.size === shapes.size;
    const size = fits ? new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true) : -1;
    if (!(size >= 0 && size < Infinity))
      throw p.protocolErrors.error("PROTOCOL_TENSOR_INVALID", `signs of "${name}" are none`);
    const signed = (_, i) => (bytes[4 + (i >> 3)] & (1 << (i & 7)) ? size : -size);
    return [name, float32(shape, Float32Array.from({ length: elementCount(shape) }, signed))];
  };
  return new Map([...shapes].map(decodeOne));
}

async function createClient(context) {
  const shapes = p.shapesOf(context.task);
  const local = await p.openLocalModel(context);
  const runRound = async (info, start, link, signal) => {
    const theta = p.decodeExactly(start.tensors, shapes);
    const trained = await local.train(theta, info, signal);
    const update = p.difference(trained.parameters, theta);
    const lost = await p.readSection(context.state, "residual");
    const wanted = lost ? p.applyUpdate(update, lost) : update;
    const blobs = new Map([...wanted].map(([name, tensor]) => [name, encodeSigns(tensor)]));
    const residual = p.difference(wanted, decodeSigns(blobs, shapes));
    await p.stageSections(context.state, { residual });
    const fields = { examples: context.train.length, steps: trained.steps };
    await link.send({ kind: "signs", fields, tensors: new Map(), blobs });
    return p.reportOf(context, trained, await local.score(trained.parameters, signal));
  };
  return { runRound, close: () => local.close() };
}

async function createServer({ task }) {
  const shapes = p.shapesOf(task);
  const openLane = async ({ deviceId }, _info, { parameters }) => {
    const first = { kind: "model", fields: {}, tensors: p.encodeAll(parameters, "float32") };
    return p.deliveryLane(first, ({ fields, blobs }) => {
      const [weight, update] = [p.contributionWeight(task, fields), decodeSigns(blobs, shapes)];
      return { kind: "contribution", deviceId, weight, update };
    });
  };
  return { openLane, close: async () => {} };
}

function estimate(task, options) {
  const shapes = [...p.shapesOf(task).values()];
  const uplinkBytes = shapes.reduce((sum, shape) => sum + bytesOf(shape), 0);
  const downlinkBytes = shapes.reduce((sum, shape) => sum + 4 * elementCount(shape), 0);
  return { ...p.wholeModelCost(task, options), uplinkBytes, downlinkBytes, roundTrips: 2 };
}

const parseDown = (payload) => p.parsePayload(payload, downKinds);
const parseUp = (payload) => p.parsePayload(payload, upKinds);
const rawBytes = ({ tensors, blobs = new Map() }) =>
  [...blobs.values()].reduce((sum, { length }) => sum + 32 * length, p.rawTensorBytes({ tensors }));

/** What a device's own configuration and the coordinator's --protocol load. */
export const protocol = {
  ...{ name: "sign", version: 1, estimate, modes: ({ execution }) => execution.modes },
  ...{ parseDown, parseUp, rawBytes, createClient, createServer },
};
