// What the pages of reports share: the document around them, tables, lists of settings.
import { html, type Markup } from "./markup.ts";
import { styleSheet } from "./style-sheet.ts";

/** What a page holds. */
export interface PageContent {
  readonly title: string;
  /** When, by what and on what it was made; stands below the title. */
  readonly made: readonly (string | undefined)[];
  readonly body: Markup;
}

/** The whole HTML document. */
export function documentPage({ title, made, body }: PageContent): string {
  // The policy holds the page to its word: nothing is loaded, nothing runs.
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Trifold: ${title}</title>
<style>${styleSheet}</style>
</head>
<body><main>
<header><h1>${title}</h1><p>${made.filter((part) => part !== undefined).join(" · ")}</p></header>
${body}
</main></body>
</html>
`.markup;
}

/** A table whose cells name their column on narrow screens. */
export function table(head: readonly string[], rows: readonly (readonly Markup[])[]): Markup {
  const cells = (row: readonly Markup[]) =>
    row.map((cell, i) => html`<td data-label="${head[i]}">${cell}</td>`);
  return html`<table><thead><tr>${head.map((name) => html`<th>${name}</th>`)}</tr></thead>
<tbody>${rows.map((row) => html`<tr>${cells(row)}</tr>`)}</tbody></table>`;
}

/** Every setting under the name that the task file gives it. */
export function settingsList(value: object): Markup {
  return html`<dl class="settings">${settings(value)}</dl>`;
}

function settings(value: object, prefix = ""): Markup[] {
  return Object.entries(value).flatMap(([name, inner]: [string, unknown]) => {
    const isGroup = typeof inner === "object" && inner !== null && !Array.isArray(inner);
    if (isGroup) return settings(inner, `${prefix}${name}.`);
    const text = Array.isArray(inner) ? inner.join(", ") : String(inner);
    return [html`<div><dt>${prefix}${name}</dt><dd>${text}</dd></div>`];
  });
}
