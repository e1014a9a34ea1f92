// Events of a run as lines for a log.
import { formatQuantity } from "../../devices/index.ts";
import type { Score } from "../../runtime/index.ts";
import type { RunEvent } from "./events.ts";

/** One line, or several for a selection; undefined for what a log need not show. */
export function eventText(event: RunEvent): string | undefined {
  switch (event.kind) {
    case "resumed":
      return `going on with round ${event.round}, attempt ${event.attempt}`;
    case "waiting":
      return `waiting for devices: ${event.ready} of ${event.needed} are ready`;
    case "joining":
      return `${event.deviceId} joins`;
    case "provisioning":
      return `${event.deviceId} fetches what it needs of the model`;
    case "refused": {
      const hint = event.hint === undefined ? "" : ` (${event.hint})`;
      return `${event.deviceId} cannot take part: ${event.code}: ${event.message}${hint}`;
    }
    case "assigned": {
      const rows = event.selection.table.map(({ text }) => `  ${text}`);
      return [
        `${event.deviceId} (${event.board}): ${event.selection.assignment?.reason}`,
        ...rows,
      ].join("\n");
    }
    case "revised":
      return `${event.deviceId} changes from ${event.from} to ${event.to}: ${event.because}`;
    case "kept":
      return `${event.deviceId} goes on as it is, for nothing else fits: ${event.because}`;
    case "gone":
      return `${event.deviceId} is gone`;
    case "round": {
      const attempt = event.attempt > 1 ? `, attempt ${event.attempt}` : "";
      const asked = event.asked === undefined ? "" : `: asks ${event.asked.join(", ")}`;
      return `round ${event.round} of ${event.rounds}${attempt}${asked}`;
    }
    case "reported": {
      const { report } = event;
      const bytes = `${formatQuantity(report.uplinkBytes, "bytes")} up, ${formatQuantity(report.downlinkBytes, "bytes")} down`;
      return `${event.deviceId}: loss ${report.loss.toFixed(3)}, ${report.trainSeconds.toFixed(1)} s, ${bytes}`;
    }
    case "lost":
      return `${event.deviceId} is left out: ${event.reason}`;
    case "dropped":
      return `${event.deviceId}: dropped, ${event.staleness} rounds were folded since it began`;
    case "reopened":
      return `round ${event.round} is opened again: ${event.reason}`;
    case "closed":
      return `round ${event.round}: ${event.accepted.length} devices, ${event.seconds.toFixed(1)} s`;
    case "scored":
      return `after round ${event.round}: ${scoreText(event)}`;
    case "finished":
      return `finished with ${scoreText(event)}`;
    case "started":
    case "progress":
      return undefined;
  }
}

/** "accuracy 0.912" or "perplexity 41.3". */
export function scoreText({ accuracy, perplexity }: Score): string {
  return accuracy === undefined
    ? `perplexity ${perplexity.toFixed(1)}`
    : `accuracy ${accuracy.toFixed(3)}`;
}
