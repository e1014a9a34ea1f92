import t from "tap";
import { referenceEngine } from "../../runtime/graph/reference.ts";
import { ortEngine } from "../../runtime/session/ort.ts";
import { engineContract } from "./engine-contract.ts";

t.test("the reference interpreter keeps the contract of engines", async (t) =>
  engineContract(t, referenceEngine),
);
t.test("ONNX Runtime keeps the contract of engines", async (t) =>
  engineContract(t, () => ortEngine({ threads: 1 })),
);
