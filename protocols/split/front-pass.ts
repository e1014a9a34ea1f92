// The front's forward pass of a step, which with `split.pipeline` runs while the answer to the step before travels (delayed by
// one step; weight stashing as in PipeDream, Narayanan et al. 2019, SOSP, section 3.3).
import type { Float32Tensor, Front, Parameters, TensorBundle } from "../../runtime/index.ts";
import { subset } from "../payload.ts";
import { shapesOf } from "../plan.ts";
import { cutsOf } from "./cut.ts";
import type { DeviceRound, StepWork } from "./device-part.ts";
import { copyOf } from "./parameter-copy.ts";

/** A forward pass whose backward pass is to come. */
export interface FrontPass {
  /** Where it was taken, and where its gradient is: steps may move the front in between. */
  readonly parameters: Parameters;
  readonly feeds: TensorBundle;
  /** [batch * sequence, hidden] */
  readonly activations: Float32Tensor;
}

/** What may be done while an answer travels. */
export interface AheadOptions {
  readonly front: Front;
  readonly round: DeviceRound;
  /** Absent behind the last step. */
  readonly next: StepWork | undefined;
}

/** The pass of this step: the one taken ahead, or one at the present parameters. */
export async function passOf(front: Front, round: DeviceRound, work: StepWork): Promise<FrontPass> {
  const { ahead, optimizer } = round;
  round.ahead = undefined;
  return ahead ?? (await forwardPass(front, optimizer.parameters, work));
}

/** What `asked` gives; with `split.pipeline` the next step's pass is taken meanwhile, at the parameters as they are now. */
export async function whileAsked<T>(
  asked: Promise<T>,
  { front, round, next }: AheadOptions,
): Promise<T> {
  const { task, assignment } = round.context;
  if (!next || !task.split.pipeline) return asked;
  const names = shapesOf(task, { from: 0, to: cutsOf(assignment, task).cutLayer }).keys();
  const now = copyOf(subset(round.optimizer.parameters, names));
  const [answer, ahead] = await Promise.all([asked, forwardPass(front, now, next)]);
  round.ahead = ahead;
  return answer;
}

async function forwardPass(
  front: Front,
  parameters: Parameters,
  { batch, maskKey }: StepWork,
): Promise<FrontPass> {
  const feeds = front.withMasks(batch.feeds, maskKey);
  return { parameters, feeds, activations: await front.forward(parameters, feeds) };
}
