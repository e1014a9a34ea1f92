// One coordinator's part for all devices of an attempt that are cut at the same place (SplitFed V2; Thapa et al. 2022, arXiv
// 2004.12088): their steps move the same parameters through the same optimizer, one after another.
import { adamW, type Optimizer, type Parameters } from "../../runtime/index.ts";
import { difference, subset } from "../payload.ts";
import { trainedPart } from "../plan.ts";
import type { After, GlobalModel, RoundInfo } from "../protocol.ts";
import type { Task } from "../task.ts";
import { type Cuts, coordinatorShapes } from "./cut.ts";
import { createTurns, type Turns } from "./turns.ts";

/** A part that several lanes train. */
export interface SharedPart {
  readonly optimizer: Optimizer;
  readonly turns: Turns;
  /** A device has delivered: `update` is from now on what training has changed by now. */
  settle(): void;
  /**
   * What training had changed when the last device delivered. Whatever comes after that, of devices whose lanes the round does
   * not count, moves it no more, so all lanes of a fold read the same values.
   */
  readonly update: Parameters;
}

/** The shared parts of a coordinator end. */
export interface SharedParts {
  /** The part of these cuts in an attempt: theta_t for the attempt's first lane, what the others have made of it for later ones. */
  open(info: RoundInfo, cuts: Cuts, global: GlobalModel): SharedPart;
  /** Ends what waits. */
  close(): void;
}

/** No part yet. The parts of an attempt are dropped when a lane of another is opened. */
export function sharedParts(task: Task, after: After): SharedParts {
  const parts = new Map<number, SharedPart>();
  let attempt = "";
  const close = () => {
    for (const { turns } of parts.values()) turns.close();
    parts.clear();
  };
  return {
    open: (info, cuts, global) => {
      const current = `${info.round} ${info.attempt}`;
      if (current !== attempt) close();
      attempt = current;
      const part = parts.get(cuts.cutLayer) ?? sharedPart(task, after, startOf(task, cuts, global));
      parts.set(cuts.cutLayer, part);
      return part;
    },
    close,
  };
}

function startOf(task: Task, cuts: Cuts, { parameters }: GlobalModel): Parameters {
  return subset(parameters, coordinatorShapes(task, cuts).keys());
}

function sharedPart(task: Task, after: After, start: Parameters): SharedPart {
  const optimizer = adamW(start, { weightDecay: task.training.weightDecay });
  const turns = createTurns({ patienceMs: 1000 * task.split.patienceSeconds, after });
  let update: Parameters = new Map();
  return {
    optimizer,
    turns,
    settle: () => {
      update = difference(trainedPart(task, optimizer.parameters), start);
    },
    get update() {
      return update;
    },
  };
}
