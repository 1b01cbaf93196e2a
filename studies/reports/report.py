"""The demo's report: one HTML file with its pictures inside, and the picture of the spectra beside it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from balred.files.replacing import replacing
from balred.studies.reports.summary import HEADINGS, summary, verdicts
from balred.studies.settings.records import RUNS, DemoResult

SPECTRA = (
    "Each line shows the Hankel singular values of the layer at one step. Where a line falls steeply, the states to the "
    "right of the fall are not needed. A cut in training needs to know this place early."
)
STABILITY = (
    "A cut in training assumes that the ranking of the states settles early. These pictures are about {}, where nothing "
    "was cut. They show the order of the states, compared with their order at the end; the rule's choice; how far "
    "the values move from one checkpoint to the next, with the bound on this movement; and how far the kept subspace turns."
)
_BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .35rem .8rem; border-bottom: 1px solid #ccc; }
td + td, th + th { text-align: right; } th { text-align: left; vertical-align: bottom; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; } .note { color: #555; font-size: .9rem; }
.warning { background: #fff3cd; padding: .6rem 1rem; }
</style>
</head>
<body>
{% block intro %}{% endblock %}

<h2>What came out</h2>
{% if rows %}
<div class="wide"><table><thead><tr>{% for h in headings %}<th>{{ h }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
{% block note %}{% endblock %}
{% else %}<p>No run has finished yet.</p>{% endif %}
{% if cuts %}<ul>{% for line in cuts %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}

{% for title, text, image in figures %}
<h2>{{ title }}</h2>
<p>{{ text }}</p>
<img src="{{ image }}" alt="{{ title }}">
{% endfor %}

<h2>Settings</h2>
<table><tbody>{% for key, value in settings %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}</tbody></table>
</body>
</html>
"""
_PAGE = """{% extends "base" %}
{% block intro %}
<h1>In-training truncation on digits, {{ result.framework }}</h1>
{% if result.interrupted %}<p class="warning">Interrupted: this page shows what ran until then.</p>{% endif %}
<p>Handwritten digits (8x8 pixels, read as sequences of 64 numbers) are classified by {{ config.states|length }} LRU
block{{ "s" if config.states|length > 1 }} of width {{ config.width }}. Three trainings of {{ config.steps }} steps on
the same batches: <b>(a)</b> the full model with {{ config.states|join(" + ") }} stored states; <b>(b)</b> the same start, truncated
during the warm-up; <b>(c)</b> a model that has the final size of (b) from the start.</p>
{% endblock %}
{% block note %}
<p class="note">{% if result.seeds|length > 1 %}Mean ± sample standard deviation over seeds {{ result.seeds|join(", ") }};
ratios of times are taken seed by seed. {% endif %}Test accuracy is the mean over the evaluations after steps
{{ config.final_evaluations|join(", ") }}, on {{ config.test }} images that were never trained on. Wall time runs from the making of the
model to the last step, with compilation and cuts, without evaluation and snapshots, alike for all three{{ ", on one thread" if result.framework == "torch" }}.</p>
{% endblock %}
"""


def render(page: str, **values: Any) -> str:
    """A page that extends the template "base", which has title, headings, rows, lines, cuts, figures and settings."""
    from jinja2 import DictLoader, Environment

    loader = DictLoader({"base": _BASE, "page": page})
    return Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page").render(**values)


def write_report(result: DemoResult, folder: Path) -> None:
    """Write ``report.html`` and, once there are spectra, ``spectrum.png`` to `folder`."""
    text = render(
        _PAGE,
        title=f"In-training truncation on digits ({result.framework})",
        result=result,
        config=result.config,
        headings=HEADINGS,
        rows=summary(result),
        lines=verdicts(result),
        cuts=[
            f"seed {r.seed}, {line}" for r in result.records for report in r.reports for line in str(report).split("\n")
        ],
        figures=_figures(result, folder),
        settings=_settings(result),
    )
    with replacing(folder / "report.html") as file:
        file.write(text)


def _figures(result: DemoResult, folder: Path) -> list[tuple[str, str, str]]:
    """(title, what to look for, image) of every picture that the records allow; layers and ranks of the first seed."""
    from balred.studies.reports import plots

    first = [r for r in result.records if r.seed == result.seeds[0]]
    figures = []
    picture = folder / "spectrum.png"
    picture.unlink(missing_ok=True)  # of an earlier demo
    if any(r.points for r in result.records):
        text = "One line for each seed; the dot is the last evaluation."
        figures.append(
            ("Accuracy against wall time", text, plots.png(plots.accuracy([(run, result.of(run)) for run in RUNS])))
        )
    for layer in first[0].snapshots if first else ():
        seen = [r for r in first if r.run != "small" and layer in r.snapshots]
        figure = plots.spectra(seen, layer)
        if not picture.exists():
            with replacing(picture, "wb") as file:
                figure.savefig(file, format="png", dpi=130)
        figures.append((f"Hankel singular values along the training: {layer}", SPECTRA, plots.png(figure)))
        text = "Solid: states that the layer had. Dotted: what the rule, without rounding, would choose at each checkpoint of (a)."
        trace = result.traces.get(layer)
        figures.append(
            (f"Rank: {layer}", text, plots.png(plots.ranks(first, trace, layer, [(0, result.config.last_cut)])))
        )
        if trace is not None:
            text = STABILITY.format("the full run (a)")
            figures.append(
                (f"Stability of the ranking: {layer}", text, plots.png(plots.stability(trace, result.config)))
            )
    return figures


def _settings(result: DemoResult) -> list[tuple[str, Any]]:
    c = result.config
    packages = (
        "balred",
        "numpy",
        "scipy",
        *(("torch",) if result.framework == "torch" else ("jax", "equinox", "optax")),
    )
    return [
        ("seeds", ", ".join(map(str, result.seeds))),
        ("rule", str(c.rule)),
        ("cuts", f"{c.attempts} attempts in steps 0 to {c.warmup}"),
        (
            "optimizer",
            f"AdamW, weight decay {c.weight_decay}, rate 0 to {c.rate} over {c.warmup} steps, then a cosine to 0",
        ),
        ("batch", c.batch),
        ("training and test images", f"{1797 - c.test} and {c.test}, stratified"),
        ("versions", ", ".join(f"{p} {version(p)}" for p in packages)),
        ("machine", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"),
    ]
