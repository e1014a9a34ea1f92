// How the page looks: light or dark as the reader's system is, one column on a telephone.
import type { Markup } from "./markup.ts";

/** The page's only style sheet. */
export const styleSheet: Markup = {
  markup: `
:root { color-scheme: light dark; --paper: #f5f6f8; --card: #fff; --ink: #1b1f27; --soft: #5b6472; --rule: #dde1e7;
  --series: #0b63c5; --pale: #bcd4f0; --note: #fff3d6; --level0: #6b7280; --level1: #b4540a; --level2: #0a7d55; --level3: #a3358f; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151b; --card: #1b2029; --ink: #e8ebf0; --soft: #a0a9b8;
  --rule: #333b49; --series: #66a9ff; --pale: #2c4a70; --note: #3d3216; --level0: #a3acba; --level1: #f2a154; --level2: #4cc79a; --level3: #e38bd3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1140px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2, figcaption { font-size: 17px; font-weight: 600; margin: 0 0 10px; }
header p, section p { color: var(--soft); margin: 4px 0 14px; }
small { color: var(--soft); font-size: 13px; font-weight: 400; }
td small, figcaption small { display: block; line-height: 1.4; }
.note { background: var(--note); border-radius: 8px; padding: 8px 14px; margin: 0 0 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 18px 0; }
.tiles div, figure, section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 18px; }
.tiles strong { display: block; font-size: 24px; line-height: 1.25; }
.tiles span { color: var(--soft); }
.charts { display: grid; margin-top: 12px; grid-template-columns: 1fr 1fr; gap: 12px; }
figure { margin: 0; }
figure > svg { display: block; width: 100%; max-width: 520px; height: auto; font-size: 12px; fill: var(--ink); }
section { margin-top: 12px; }
.plot { background: #fff; border-radius: 6px; padding: 6px; } .plot svg { display: block; width: 100%; height: auto; max-height: 460px; }
.axis { fill: var(--soft); } .axis line { stroke: var(--rule); }
.name { font-weight: 600; } .bar { fill: var(--series); } .pale { fill: var(--pale); }
polyline.series { fill: none; stroke: var(--series); stroke-width: 2.5; stroke-linejoin: round; }
line.series { stroke: var(--series); stroke-width: 3; } circle.series { fill: var(--series); }
text.series { fill: var(--series); font-weight: 700; }
.level { stroke-width: 1.5; stroke-dasharray: 5 3; }
line.level0 { stroke: var(--level0); } line.level1 { stroke: var(--level1); } line.level2 { stroke: var(--level2); } line.level3 { stroke: var(--level3); }
text.level0 { fill: var(--level0); } text.level1 { fill: var(--level1); } text.level2 { fill: var(--level2); } text.level3 { fill: var(--level3); }
.key { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 8px 0 0; padding: 0; font-size: 14px; }
.key svg { margin-right: 7px; vertical-align: 1px; }
table { border-collapse: collapse; width: 100%; }
th { color: var(--soft); font-size: 13px; font-weight: 600; text-align: left; padding: 4px 14px 6px 0; white-space: nowrap; }
td { border-top: 1px solid var(--rule); padding: 8px 14px 8px 0; vertical-align: top; }
td:nth-child(n + 3), td:nth-child(n + 3) small { white-space: nowrap; }
.prose td:nth-child(n + 3), .wide th { white-space: normal; } .prose td:first-child, .wide td { white-space: nowrap; } .wide th, .wide td { padding-right: 10px; }
.settings { columns: 300px; column-gap: 32px; margin: 0; font-size: 13px; }
.settings div { display: flex; gap: 12px; justify-content: space-between; border-bottom: 1px solid var(--rule); padding: 3px 0; break-inside: avoid; }
dt { color: var(--soft); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
@media (max-width: 760px) {
  .charts { grid-template-columns: 1fr; }
  main { padding: 18px 10px 32px; } .tiles div, figure, section { padding: 12px; } .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tiles strong { font-size: 20px; } thead { display: none; } tr { display: block; border-top: 1px solid var(--rule); padding: 8px 0; }
  td, td:nth-child(n + 3) { display: grid; grid-template-columns: 124px 1fr; border: 0; padding: 2px 0; white-space: normal; }
  td::before { content: attr(data-label); color: var(--soft); grid-row: span 3; } td > * { grid-column: 2; }
}
@media print { body { background: none; } figure, section, tr { break-inside: avoid; } }
`,
};
