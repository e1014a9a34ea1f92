// How far a student is from its teacher on the round's public texts.
import type { Task } from "../task.ts";
import { eachRow, type Prediction, type PublicRows, predictRows } from "./public-rows.ts";
import type { Teacher } from "./teacher.ts";

/** How far apart a student and its teacher are. */
export interface Distance {
  /** Mean over the rows of KL(teacher || student) at the task's temperature, in nats; 0 when they are one. */
  readonly divergence: number;
  /** Share of the rows, 0..1, whose most probable class is the same. */
  readonly agreement: number;
}

/** How far the student's predictions are from the teacher's. */
export async function distanceTo(
  task: Task,
  rows: PublicRows,
  { teacher, ...student }: Prediction & { readonly teacher: Teacher },
): Promise<Distance> {
  const { classes } = rows;
  const { temperature } = task.kd;
  let sum = 0;
  let agreed = 0;
  for await (const { indices, logits } of predictRows(task, rows, student)) {
    const wanted = await teacher.distributions(indices);
    eachRow(rows, indices, (_, place) => {
      const [from, to] = [place * classes, (place + 1) * classes];
      const [theirs, own] = [wanted.subarray(from, to), logits.subarray(from, to)];
      sum += divergenceOf(theirs, own, temperature);
      if (largest(theirs) === largest(own)) agreed++;
    });
  }
  return { divergence: sum / rows.rows, agreement: agreed / rows.rows };
}

/** Sum of p (log p - log q) with log q = l / T - log(sum of exp(l / T)): no probability that rounds to zero makes it infinite. */
function divergenceOf(teacher: Float32Array, logits: Float32Array, temperature: number): number {
  const most = logits[largest(logits)] as number;
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - most) / temperature);
  const logTotal = Math.log(total);
  let sum = 0;
  for (let c = 0; c < logits.length; c++) {
    const p = teacher[c] as number;
    if (p > 0) sum += p * (Math.log(p) - ((logits[c] as number) - most) / temperature + logTotal);
  }
  return sum;
}

/** Place of the largest value, of equal ones the first. */
function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++)
    if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
