// Draws Vega-Lite specifications without a browser: SVG by Vega, PNG of the SVG by resvg.
import { Resvg } from "@resvg/resvg-js";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** The plot as SVG text, complete in itself. */
export async function drawSvg(spec: TopLevelSpec): Promise<string> {
  const view = new View(parse(compile({ ...spec, config }).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** The SVG as PNG at twice its size; undefined on a machine without fonts, where it would lack all text. */
export function drawPng(svg: string): Uint8Array | undefined {
  if (!hasFonts()) return undefined;
  return pixels(svg).asPng();
}

const font = "DejaVu Sans, Verdana, Arial, Helvetica, sans-serif";
const config = {
  background: "white",
  font,
  axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e3e3e3" },
  legend: { labelFontSize: 11 },
  view: { stroke: "#cccccc" },
} as const;

function pixels(svg: string) {
  const options = { defaultFontFamily: "DejaVu Sans", loadSystemFonts: true };
  return new Resvg(svg, {
    background: "white",
    fitTo: { mode: "zoom", value: 2 },
    font: options,
  }).render();
}

/** Draws one letter and looks whether anything became dark. */
function hasFonts(): boolean {
  const letter = `<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text x="2" y="16" font-size="16" font-family="${font}">M</text></svg>`;
  return pixels(letter).pixels.some((value) => value < 128);
}
