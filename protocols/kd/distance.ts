// How far a student is from its teacher on the round's public texts.
import type { Task } from "../task.ts";
import { eachRow, type Prediction, type PublicRows, predictRows } from "./public-rows.ts";
import type { Teacher } from "./teacher.ts";

/** Mean over the rows of KL(teacher || student) at the task's temperature, in nats; 0 when they agree. */
export async function distanceTo(
  task: Task,
  rows: PublicRows,
  { teacher, ...student }: Prediction & { readonly teacher: Teacher },
): Promise<number> {
  const { classes } = rows;
  const { temperature } = task.kd;
  let sum = 0;
  for await (const { indices, logits } of predictRows(task, rows, student)) {
    const wanted = await teacher.distributions(indices);
    eachRow(rows, indices, (_, place) => {
      const [from, to] = [place * classes, (place + 1) * classes];
      sum += divergence(wanted.subarray(from, to), logits.subarray(from, to), temperature);
    });
  }
  return sum / rows.rows;
}

/** Sum of p (log p - log q) with log q = l / T - log(sum of exp(l / T)): no probability that rounds to zero makes it infinite. */
function divergence(teacher: Float32Array, logits: Float32Array, temperature: number): number {
  const largest = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - largest) / temperature);
  const logTotal = Math.log(total);
  let sum = 0;
  for (let c = 0; c < logits.length; c++) {
    const p = teacher[c] as number;
    if (p > 0)
      sum += p * (Math.log(p) - ((logits[c] as number) - largest) / temperature + logTotal);
  }
  return sum;
}
