"""The page of the report, as a Jinja template: one file, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #ffffff; --ink: #20272c; --soft: #5d6a72; --rule: #e0e4e4;
  --accent: #0b6570; --second: #b2591a; --good: #1f7a4d; --unclear: #a36a00; --bad: #b23a2e; }
@media (prefers-color-scheme: dark) { :root { --paper: #13181b; --card: #1a2125; --ink: #e3e8ea; --soft: #98a5ac;
  --rule: #2d373c; --accent: #62bcc6; --second: #e39a5f; --good: #62c091; --unclear: #dcae55; --bad: #ec8a7d; } }
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
svg .whisker { stroke: var(--accent); stroke-width: 1.5; opacity: .75; }
.key { display: inline-block; width: .9em; height: .2em; border-radius: 1px; vertical-align: middle;
  margin: 0 .25em 0 .6em; }
details { border-top: 1px solid var(--rule); padding: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
details:last-of-type { border-bottom: 1px solid var(--rule); }
@media (max-width: 40rem) { main { padding-top: 1.5rem; } h1 { font-size: 1.35rem; } .wide { display: none; }
  th, td { padding-right: .6rem; } table.confusion td { min-width: 2.6rem; padding: .5rem .2rem; }
  table.facts th { width: 50%; } }
@media print { body { background: none; } details > * { display: block; } }
"""

_MACROS = """
{% macro figure(estimate, digits=3) %}<td class="n">{{ estimate.value | number(digits) }}
  <small>{{ estimate | span(digits) }}</small></td>{% endmacro %}
{% macro table(section) %}<table class="facts"><tbody>{% for name, value in section | facts %}
  <tr><th scope="row">{{ name }}</th><td class="n">{{ value }}</td></tr>{% endfor %}</tbody></table>{% endmacro %}
{% macro rater(evaluation) %}
<h3>Each label</h3>
<div class="scroll"><table><thead><tr><th>Label</th><th>Rows</th><th>Rated so</th><th>Sensitivity</th>
  <th>Specificity</th><th>PPV</th><th>NPV</th><th>F1</th></tr></thead><tbody>
  {% for each in evaluation.per_class %}<tr><th scope="row">{{ each.label }}</th><td class="n">{{ each.support }}</td>
  <td class="n">{{ each.predicted }}</td>{{ figure(each.sensitivity, 2) }}{{ figure(each.specificity, 2) }}
  {{ figure(each.ppv, 2) }}{{ figure(each.npv, 2) }}<td class="n">{{ each.f1 | number(2) }}</td></tr>
  {% endfor %}</tbody></table></div>
<div class="pair">
<div><h3>Confusion matrix</h3><div class="scroll"><table class="confusion"><thead><tr><th>expert ↓ rated →</th>
  {% for each in evaluation.per_class %}<th scope="col" title="{{ each.label }}">
  {{ each.label if evaluation.labels | length <= 3 else each.value }}</th>{% endfor %}</tr></thead><tbody>
  {% for line in evaluation.confusion %}{% set row = evaluation.per_class[loop.index0] %}
  <tr><th scope="row">{{ row.label }}
  {% if evaluation.labels | length > 3 and row.label != row.value | string %} ({{ row.value }}){% endif %}</th>
  {% for count in line %}
  <td class="n" style="--heat: {{ (55 * count / (line | sum or 1)) | round | int }}%">{{ count }}</td>
  {% endfor %}</tr>{% endfor %}</tbody></table></div>
  <p class="note">Rows; the shade is the share of the expert’s label.</p></div>
{% set plot = plots.reliability_plot(evaluation.calibration.bins or []) %}
{% if plot %}<div><h3>Calibration</h3>{{ plot }}
  <p class="note">Brier score {{ evaluation.calibration.brier | number }} (0 best, 2 worst) · expected calibration error
  {{ evaluation.calibration.expected_error | number }} over {{ evaluation.calibration.bins | length }} bins · rows in
  each:
  {% for bin in evaluation.calibration.bins if bin.accuracy.n %}{{ bin.low | number(1) }}–{{ bin.high | number(1) }}:
  {{ bin.accuracy.n }}{{ ", " if not loop.last }}{% endfor %}.</p></div>{% endif %}
</div>
{% endmacro %}
"""

_BODY = """
<header><p class="eyebrow">Expertune · tuning report</p><h1>{{ report.run.topics or "Report" }}</h1></header>
<p class="verdict {{ tone(report.verdict) }}">{{ report.verdict.line }}</p>
<dl class="run">
  {% for name, value in report.run | facts if name != "topics" and not name.startswith("rows.") %}
  <div><dt>{{ name | replace("_", " ") }}</dt>
    <dd class="n">{{ value[:16] | replace("T", " ") if name == "created" else value }}</dd></div>{% endfor %}
  {% if report.run.rows %}<div><dt>rows: {{ report.run.rows.keys() | join(" / ") }}</dt>
    <dd class="n">{{ report.run.rows.values() | join(" / ") }}</dd></div>{% endif %}</dl>
{% if report.evaluations %}{% set main = report.evaluations[0] %}
<section><h2>How good is it?</h2>
<p class="note">{{ main.rows }} rows in {{ main.groups }} groups that no choice has looked at. Below each figure its
  {{ "%g" % (100 * main.accuracy.interval.confidence) }} % interval: Wilson for shares of rows, a bootstrap over
  groups for F1 and kappa.</p>
<div class="scroll"><table><thead><tr><th>Rater</th><th>Macro-F1</th><th class="wide">0 to 1</th><th>Accuracy</th>
  <th>Kappa</th>{% if main.weighted_kappa %}<th>Weighted kappa</th>{% endif %}
  <th class="wide">Rows a second</th></tr></thead><tbody>
  {% for each in report.evaluations %}
  <tr{% if loop.first %} class="first"{% endif %}><th scope="row">{{ each.name }}</th>
  {{ figure(each.macro_f1) }}<td class="wide">{{ plots.whisker_plot(each.macro_f1) }}</td>{{ figure(each.accuracy) }}
  {{ figure(each.kappa) }}{% if main.weighted_kappa %}{{ figure(each.weighted_kappa) }}{% endif %}
  <td class="n wide">{{ each.rows_per_second | number(1) }}</td></tr>
  {% endfor %}</tbody></table></div>
{% if main.ordinal_reason %}
<p class="note">Quadratic-weighted kappa needs an ordinal scale; this one is {{ main.ordinal_reason }}.</p>{% endif %}
{% if report.differences %}<h3>Differences in macro-F1</h3>
<div class="scroll"><table><thead><tr><th>On the same rows</th><th>Difference</th><th>Reading</th></tr></thead><tbody>
  {% for each in report.differences %}
  {% set tone = "not-better" if each.value <= 0 else ("unclear" if each.includes_zero else "better") %}
  <tr><th scope="row">{{ each.first }} − {{ each.second }}</th>
  <td class="n">{{ "%+.3f" % each.value }}<small>{{ each | span }}</small></td>
  <td class="{{ tone }}"><span class="tone">{{ {"better": "better", "unclear": "higher, not proven",
    "not-better": "not better"}[tone] }}</span></td></tr>
  {% endfor %}</tbody></table></div>{% endif %}
{% for each in report.evaluations if each.json_validity %}{% if loop.first %}<h3>Free answers</h3><ul>{% endif %}
  <li>{{ each.name }}: {{ each.json_validity.value | number }} ({{ each.json_validity | span }}) are valid JSON with a
  label of the scale{% if each.answer_agreement.n %}; {{ each.answer_agreement.value | number }}
  ({{ each.answer_agreement | span }}) of the {{ each.answer_agreement.n }} readable ones give the likeliest
  label{% endif %}.</li>
  {% if loop.last %}</ul>{% endif %}{% endfor %}
</section>
<section><h2>Where is it right?</h2><p class="note">{{ main.name }}, {{ main.rows }} rows.</p>{{ rater(main) }}
{% for each in report.evaluations[1:] %}<details><summary>{{ each.name }}</summary>{{ rater(each) }}</details>
{% endfor %}</section>{% endif %}
{% set loss = plots.loss_plot(report.curves.steps or [], report.curves.dev or []) if report.curves else None %}
{% set f1 = plots.dev_plot(report.curves.dev or []) if report.curves else None %}
{% if loss or f1 %}<section><h2>How did it learn?</h2><div class="pair">
  {% if loss %}<figure>{{ loss }}<figcaption><span class="key" style="background: var(--accent)"></span>training, each
  step and running mean<span class="key" style="background: var(--second)"></span>dev rows</figcaption>
  </figure>{% endif %}
  {% if f1 %}<figure>{{ f1 }}<figcaption>Each look at the dev rows; the ring marks the state that was kept.</figcaption>
  </figure>{% endif %}</div></section>{% endif %}
{% if report.audit %}<section><h2>What is in the data?</h2>
{% if report.audit.findings %}<div class="scroll"><table><thead><tr><th>Finding</th><th>Severity</th><th>Rows</th>
  <th>What it means</th></tr></thead><tbody>{% for each in report.audit.findings %}
  <tr><th scope="row">{{ each.kind | replace("_", " ") }}</th><td>{{ each.severity }}</td>
  <td class="n">{{ each.count }}</td><td>{{ each.message }}</td></tr>{% endfor %}</tbody></table></div>
{% else %}<p>No finding.</p>{% endif %}
{% for name, value in report.audit.items() if name != "findings" and value is not none %}{% if loop.first %}
<details><summary>Counts</summary>{% endif %}{{ table({name: value}) }}{% if loop.last %}</details>{% endif %}
{% endfor %}</section>{% endif %}
{% if report.export %}<section><h2>What did the file keep?</h2>
{% if report.export.types %}<div class="scroll"><table><thead><tr><th>Type</th><th>Tensors</th><th>Size</th>
  <th>Share of the change kept</th></tr></thead><tbody>{% for each in report.export.types %}
  <tr><th scope="row">{{ each.type }}</th><td class="n">{{ each.tensors }}</td>
  <td class="n">{{ each.bytes | size }}</td>
  <td class="n">{{ each.kept | number }}</td></tr>{% endfor %}</tbody></table></div>{% endif %}
<table class="facts"><tbody>
  {% if report.export.bytes is defined %}<tr><th scope="row">Size of the file (of its base)</th>
  <td class="n">{{ report.export.bytes | size }} ({{ report.export.base_bytes | size }})</td></tr>{% endif %}
  {% if report.export.rows_per_second is defined %}<tr><th scope="row">Rows rated a second (by its base)</th>
  <td class="n">{{ report.export.rows_per_second | number(2) }}
  ({{ report.export.base_rows_per_second | number(2) }})</td></tr>{% endif %}
  {% if report.export.agreement is defined %}<tr><th scope="row">Labels on which file and adapter agree</th>
  <td class="n">{{ report.export.agreement | number }}</td></tr>{% endif %}
  {% if report.export.probability_gap is defined %}<tr><th scope="row">Mean difference of their label probabilities</th>
  <td class="n">{{ report.export.probability_gap | number(4) }}</td></tr>{% endif %}
  {% for name, value in report.export | facts if name.split(".")[0] not in export_shown %}
  <tr><th scope="row">{{ name }}</th><td class="n">{{ value }}</td></tr>{% endfor %}</tbody></table>
</section>{% endif %}
{% if report.provenance or report.config or report.timings %}<section><h2>How can it be repeated?</h2>
{% if report.provenance %}<details open><summary>Hashes and versions</summary>{{ table(report.provenance) }}
  </details>{% endif %}
{% if report.config %}<details><summary>Configuration</summary>{{ table(report.config) }}</details>{% endif %}
{% if report.timings %}<details><summary>Time of each stage, in seconds</summary>{{ table(report.timings) }}
  </details>{% endif %}
</section>{% endif %}
"""

TEMPLATE = f"""<!doctype html>
{_MACROS}
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Expertune report{{% if report.run.topics %}} – {{{{ report.run.topics }}}}{{% endif %}}</title>
<style>{STYLE}</style></head><body><main>
{_BODY}
</main></body></html>
"""
