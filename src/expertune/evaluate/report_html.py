"""The page of the report, as a Jinja template: one file, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

from .report_style import STYLE

_MACROS = """
{% macro figure(estimate, digits=3) %}<td class="n">{{ estimate.value | number(digits) }}
  <small>{{ estimate | span(digits) }}</small></td>{% endmacro %}
{% macro some(estimate) %}{% if estimate %}{{ figure(estimate, 2) }}{% else %}<td class="gone">n &lt; 20</td>
  {% endif %}{% endmacro %}
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

_STRATA = """
{% if report.strata %}<section><h2>For whom is it right?</h2>
<p class="note">{{ main.name }}, by part of the test rows. A part of fewer than 20 rows is left out, and so is a
  figure that would stand on fewer. Where the parts left out of a column have fewer than 20 rows together, the
  next smallest part is left out too: taken from the whole, the rest would give them away.</p>
{% for column in report.strata %}<h3>{{ column.column }}</h3>
{% if column.note %}<p>No figures: {{ column.note }}.</p>{% else %}
<div class="scroll"><table><thead><tr><th>{{ column.column }}</th><th>Rows</th><th>Accuracy</th><th>Label</th>
  <th>Sensitivity</th><th>Specificity</th><th>PPV</th><th>NPV</th></tr></thead>
  {% for each in column.strata %}<tbody class="stratum">
  {% if each.hidden %}<tr><th scope="row">{{ each.name }}</th><td class="gone" colspan="7">
  {{ "n < 20" if each.hidden == "few" else "left out, so that the others cannot be worked out" }}</td></tr>
  {% else %}{% for label in each.per_class %}<tr>
  {% if loop.first %}<th scope="rowgroup" rowspan="{{ each.per_class | length }}">{{ each.name }}</th>
  <td class="n" rowspan="{{ each.per_class | length }}">{{ each.rows }}</td>
  <td class="n" rowspan="{{ each.per_class | length }}">{{ each.accuracy.value | number(2) }}
  <small>{{ each.accuracy | span(2) }}</small></td>{% endif %}
  <td>{{ label.label }}</td>{{ some(label.sensitivity) }}{{ some(label.specificity) }}{{ some(label.ppv) }}
  {{ some(label.npv) }}</tr>{% endfor %}{% endif %}</tbody>{% endfor %}</table></div>{% endif %}{% endfor %}
</section>{% endif %}
{% if report.prevalence.labels %}<section><h2>What is a rating worth elsewhere?</h2>
<p class="note">{{ report.prevalence.rater }}. PPV: of the records that get the label, the share that an
  expert would give it to. It falls where the label is rare. By Bayes from sensitivity and specificity, as if these
  stayed the same; intervals by the delta method on the logit scale. {% if report.prevalence.stated %}Stated share:
  {{ report.prevalence.stated | percent }}.{% else %}No share was stated (--prevalence): that of the test
  rows.{% endif %}</p>
<div class="pair"><div class="scroll"><table><thead><tr><th>Label</th><th>Test rows</th><th>Share</th>
  <th>PPV</th><th>NPV</th></tr></thead><tbody>
  {% for each in report.prevalence.labels %}<tr><th scope="row">
  {% if loop.index0 < plots.COLOURS %}<span class="key line" style="background: var(--c{{ loop.index0 }})"></span>
  {% endif %}{{ each.label }}</th><td class="n whole">{{ each.in_test | percent }}</td>
  <td class="n whole">{{ each.prevalence | percent }}</td>{{ figure(each.ppv) }}{{ figure(each.npv) }}</tr>
  {% endfor %}</tbody></table></div>
{% set plot = plots.prevalence_plot(report.prevalence.labels) %}
{% if plot %}<figure>{{ plot }}<figcaption>PPV by the label’s share of the records, with its interval; the dot is the
  share in the table.</figcaption></figure>{% endif %}</div></section>{% endif %}
{% if report.conformal %}<section><h2>Do its sets hold the truth?</h2>
<p class="note">Beside its rating each record gets the set of labels that cannot be ruled out. The set shall hold the
  true label in {{ report.conformal.nominal | percent }} of the records of each label (the upright mark). The thresholds
  come from the dev rows; these are the test rows.</p>
<div class="scroll"><table><thead><tr><th>Records of</th><th>Rows</th><th>Sets with the true label</th>
  <th class="wide">0 to 1</th><th>Labels in a set</th></tr></thead><tbody>
  {% for each in report.conformal.labels %}<tr><th scope="row">{{ each.label }}</th>
  <td class="n">{{ each.covered.n }}</td>{{ figure(each.covered) }}
  <td class="wide">{{ plots.whisker_plot(each.covered, report.conformal.nominal) }}</td>
  <td class="n">{{ each.mean_size | number(2) }}{% if not each.exact %}<small>too few dev rows: not assured</small>
  {% endif %}</td></tr>{% endfor %}
  <tr class="first"><th scope="row">all</th><td class="n">{{ report.conformal.covered.n }}</td>
  {{ figure(report.conformal.covered) }}
  <td class="wide">{{ plots.whisker_plot(report.conformal.covered, report.conformal.nominal) }}</td>
  <td class="n">{{ report.conformal.mean_size | number(2) }}</td></tr></tbody></table></div>
<p class="note">{{ report.conformal.single.value | percent }} of the sets are one label alone,
  {{ report.conformal.empty.value | percent }} are empty: unlike any dev row.</p></section>{% endif %}
"""

_BODY = (
    """
<header><p class="eyebrow">Expertune · tuning report</p><h1>{{ report.run.topics or "Report" }}</h1></header>
<p class="verdict {{ tone(report.verdict) }}">{{ report.verdict.line }}</p>
{% if report.choice.reason %}<p class="note">Why this product: {{ report.choice.reason }}.</p>{% endif %}
<dl class="run">
  {% for name, value in report.run | facts if name != "topics" and not name.startswith("rows.") %}
  <div><dt>{{ name | replace("_", " ") }}</dt>
    <dd class="n">{{ value[:16] | replace("T", " ") if name == "created" else value }}</dd></div>{% endfor %}
  {% if report.run.rows %}<div><dt>rows: {{ report.run.rows.keys() | join(" / ") }}</dt>
    <dd class="n">{{ report.run.rows.values() | join(" / ") }}</dd></div>{% endif %}</dl>
{% set main = report.evaluations[0] if report.evaluations else None %}
{% if main %}
<section><h2>How good is it?</h2>
<p class="note">{{ main.rows }} rows in {{ main.groups }} groups that no choice has looked at. Below each figure its
  {{ "%g" % (100 * main.accuracy.interval.confidence) }} % interval: Wilson for shares of rows, a bootstrap over
  groups for F1 and kappa; rows of one group count as alike in both.</p>
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
"""
    + _STRATA
    + """
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
  </tbody></table>
{% for name, value in report.export | facts if name.split(".")[0] not in export_shown %}{% if loop.first %}
<details><summary>How the types were chosen</summary><table class="facts"><tbody>{% endif %}
  <tr><th scope="row">{{ name }}</th><td class="n">{{ value }}</td></tr>{% if loop.last %}</tbody></table></details>
{% endif %}{% endfor %}
</section>{% endif %}
{% if report.provenance or report.config or report.timings %}<section><h2>How can it be repeated?</h2>
{% if report.provenance %}<details><summary>Hashes and versions</summary>{{ table(report.provenance) }}
  </details>{% endif %}
{% if report.config %}<details><summary>Configuration</summary>{{ table(report.config) }}</details>{% endif %}
{% if report.timings %}<details><summary>Time of each stage, in seconds</summary>{{ table(report.timings) }}
  </details>{% endif %}
</section>{% endif %}
"""
)

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
