"""How the page of the report looks: dark on light, on paper and at the width of a phone too."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; --paper: #fcfcfa; --card: #ffffff; --ink: #20272c; --soft: #5d6a72; --rule: #e0e4e4;
  --accent: #0b6570; --second: #b2591a; --good: #1f7a4d; --unclear: #a36a00; --bad: #b23a2e;
  --c0: #0b6570; --c1: #b2591a; --c2: #5b4b9a; --c3: #7a7a1f; --c4: #a3305f; --c5: #44525a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header p.eyebrow { margin: 0 0 .25rem; color: var(--soft); font-size: .875rem; }
h1 { font-size: 1.6rem; line-height: 1.25; font-weight: 650; margin: 0 0 1.25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.75rem 0 .5rem; }
h3 { font-size: .95rem; font-weight: 650; margin: 1.5rem 0 .25rem; }
p { margin: .4rem 0 .8rem; } .note { color: var(--soft); font-size: .875rem; max-width: 46rem; }
.verdict { background: var(--card); border: 1px solid var(--rule); border-left: 5px solid var(--tone, var(--soft));
  border-radius: 6px; padding: 1rem 1.25rem; font-size: 1.1rem; margin: 0 0 1rem; }
.better { --tone: var(--good); } .unclear { --tone: var(--unclear); } .not-better { --tone: var(--bad); }
.tone { color: var(--tone); white-space: nowrap; }
dl.run { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1.25rem 0; }
dl.run dt { color: var(--soft); font-size: .8rem; } dl.run dd { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .925rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8rem; vertical-align: bottom; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td { vertical-align: top; } tbody th { color: var(--ink); font-size: inherit; vertical-align: top; }
.n { font-variant-numeric: tabular-nums; } .n small { display: block; color: var(--soft); white-space: nowrap; }
td.gone { color: var(--soft); font-size: .85rem; }
.whole, tbody.stratum th, td.gone { white-space: nowrap; } tbody.stratum { border-top: 1px solid var(--soft); }
tr.first th, tr.first td { font-weight: 650; } tr.first small { font-weight: 400; }
table.facts th { font-weight: 400; color: var(--soft); width: 40%; font-size: inherit; }
table.facts th, table.facts td { overflow-wrap: anywhere; font-size: .85rem; padding-block: .25rem; }
table.confusion { width: auto; } table.confusion td { text-align: center; min-width: 3.4rem; padding: .55rem .4rem;
  border: 2px solid var(--paper); background: color-mix(in srgb, var(--accent) var(--heat), var(--card)); }
table.confusion th { padding: .4rem .7rem .4rem 0; border: 0; max-width: 11rem; }
table.confusion thead th + th { text-align: center; padding: .4rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }
figure { margin: .5rem 0; } figcaption { color: var(--soft); font-size: .85rem; }
svg.plot { width: 100%; max-width: 30rem; display: block; } svg.forest { width: 10rem; height: 1.3rem; display: block; }
svg text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; } svg .grid { stroke: var(--rule); }
svg polyline { fill: none; } svg .thin { stroke: var(--accent); stroke-width: 1; opacity: .3; }
svg .curve { stroke: var(--accent); stroke-width: 2; } svg .other { stroke: var(--second); stroke-width: 1.5; }
svg .otherdot { fill: var(--second); } svg .ring { fill: none; stroke: var(--second); stroke-width: 1.5; }
svg .ideal { stroke: var(--soft); stroke-dasharray: 3 4; } svg .dot { fill: var(--accent); }
svg .nominal { stroke: var(--second); stroke-width: 2; }
svg .c0 { stroke: var(--c0); stroke-width: 2; } svg .d0 { fill: var(--c0); }
svg .c1 { stroke: var(--c1); stroke-width: 2; } svg .d1 { fill: var(--c1); }
svg .c2 { stroke: var(--c2); stroke-width: 2; } svg .d2 { fill: var(--c2); }
svg .c3 { stroke: var(--c3); stroke-width: 2; } svg .d3 { fill: var(--c3); }
svg .c4 { stroke: var(--c4); stroke-width: 2; } svg .d4 { fill: var(--c4); }
svg .c5 { stroke: var(--c5); stroke-width: 2; } svg .d5 { fill: var(--c5); }
svg .band { stroke: none; opacity: .1; }
svg .b0 { fill: var(--c0); } svg .b1 { fill: var(--c1); } svg .b2 { fill: var(--c2); }
svg .b3 { fill: var(--c3); } svg .b4 { fill: var(--c4); } svg .b5 { fill: var(--c5); }
svg .whisker { stroke: var(--accent); stroke-width: 1.5; opacity: .75; }
.key { display: inline-block; width: .9em; height: .2em; border-radius: 1px; vertical-align: middle;
  margin: 0 .25em 0 .6em; }
.key.line { margin: 0 .4em 0 0; }
details { border-top: 1px solid var(--rule); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
details:last-of-type { border-bottom: 1px solid var(--rule); }
@media (max-width: 40rem) { main { padding-top: 1.5rem; } h1 { font-size: 1.35rem; } .wide { display: none; }
  th, td { padding-right: .6rem; } table.confusion td { min-width: 2.6rem; padding: .5rem .2rem; }
  table.facts th { width: 50%; } }
@media print { body { background: none; } details > * { display: block; } }
"""
