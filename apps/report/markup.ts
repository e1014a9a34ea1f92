// HTML and SVG as template strings that escape whatever is put in, so that no page can forget to.

/** Text that is markup already; made by `html`, or taken from elsewhere by `trustedMarkup`. */
export interface Markup {
  readonly markup: string;
}

/** Markup that another program made and that is safe as it is, such as a chart library's SVG. */
export function trustedMarkup(markup: string): Markup {
  return { markup };
}

/** What a template takes: text and numbers are escaped, markup is not, undefined is left out. */
export type Content = string | number | Markup | readonly Markup[] | undefined;

/** Template tag: the literal parts are markup, every value is escaped unless it is markup itself. */
export function html(parts: TemplateStringsArray, ...values: readonly Content[]): Markup {
  return { markup: parts.reduce((text, part, i) => text + render(values[i - 1]) + part) };
}

function render(content: Content): string {
  if (content === undefined) return "";
  if (typeof content === "number") return String(content);
  if (typeof content === "string") return escapeText(content);
  return "markup" in content ? content.markup : content.map(({ markup }) => markup).join("");
}

/** Safe between tags and in quoted attributes. */
function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
