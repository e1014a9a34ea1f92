// Long lines on a narrow terminal: broken between words, so that nothing is lost and columns stay apart.

/**
 * Breaks each line between words so that none has more than `columns` characters; what follows a break is indented two
 * more than its line. A number keeps the word behind it, and a longer word has a line to itself. Control characters (of foreign texts) become spaces.
 */
export function wrapText(text: string, columns: number): string {
  return text
    .split("\n")
    .map((line) => wrapLine(line.replace(/\p{Cc}/gu, " "), columns))
    .join("\n");
}

function wrapLine(line: string, columns: number): string {
  const indent = " ".repeat(line.length - line.trimStart().length);
  const lines: string[] = [];
  let current = indent;
  // A number stays with its unit.
  for (const word of line.trim().split(/(?<!\d) +/)) {
    const isFirst = current.trim() === "";
    if (isFirst || current.length + 1 + word.length <= columns) {
      current += isFirst ? word : ` ${word}`;
    } else {
      lines.push(current);
      current = `${indent}  ${word}`;
    }
  }
  return [...lines, current].join("\n");
}
