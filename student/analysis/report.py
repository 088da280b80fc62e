"""An analysis as one HTML file: tables and pictures of clips; no scripts, nothing is fetched."""

# Q queries, M IMU windows of a query, k retrieved clips

from collections.abc import Sequence
from typing import Any

import jinja2
import polars as pl

from egoctl.pipeline.store import FeatureStore
from egoctl.student.analysis.class_gains import ClassGain
from egoctl.student.analysis.clip_pictures import (
    PLOT_HEIGHT,
    PLOT_WIDTH,
    ClipPicture,
    clip_pictures,
    plot_points,
)
from egoctl.student.analysis.result import Analysis
from egoctl.student.analysis.retrieval import NONE, Retrieval
from egoctl.student.clips.clip_set import ClipSet

NUM_SHOWN_IMUS = 3
"""The frame's own and two others: more make the page heavy, not clearer."""
NUM_SHOWN_CLIPS = 3
NUM_SHOWN_CLASSES = 12
"""At either end."""
REPORT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ run.run }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; color: #222 }
h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.clips { display: flex; flex-wrap: wrap; gap: 1rem }
.clip { border: 1px solid #ddd; padding: .4rem; font-size: 12px; max-width: 26rem }
.clip img { width: 96px }
.id { color: #777; overflow-wrap: anywhere }
.row { margin: .5rem 0 1.5rem; border-left: 3px solid #ccc; padding-left: .6rem }
.accel { stroke: #c0504d } .gyro { stroke: #31618e }
polyline { fill: none; stroke-width: 1.2 }
.bar { display: inline-block; height: .8em } .up { background: #4a8 } .down { background: #c66 }
.note { color: #555; max-width: 50rem }
</style>
</head>
<body>
{% macro share(value) %}{{ "–" if value is none else "%.3f" | format(value) }}{% endmacro %}
{% macro points(value) %}{{ "–" if value is none else "%+.1f" | format(100 * value) }}{% endmacro %}
{% macro strip(id) %}
{% for frame in pictures[id].frames %}<img src="{{ frame }}" alt="">{% endfor %}
{% endmacro %}
{% macro motion(id) %}
{% if pictures[id].accel %}
<svg width="{{ plot_width }}" height="{{ plot_height }}" role="img" aria-label="motion">
<polyline class="accel" points="{{ pictures[id].accel }}"/>
<polyline class="gyro" points="{{ pictures[id].gyro }}"/></svg>
{% else %}<span class="note">no IMU</span>{% endif %}
{% endmacro %}
{% macro card(clip) %}
<div class="clip">{{ strip(clip.clip_id) }}<br>{{ motion(clip.clip_id) }}<br>
cosine {{ share(clip.cosine) }}, L1 {{ share(clip.l1_norm) }}
{%- if clip.gyro_rms is not none %}, turning {{ "%.2f" | format(clip.gyro_rms) }} rad/s{% endif %}
<br>label <b>{{ clip.label or "–" }}</b>, student {{ clip.predicted }}
{%- if clip.other_predicted %}, other {{ clip.other_predicted }}{% endif -%}
{%- if clip.teacher_predicted %}, teacher {{ clip.teacher_predicted }}{% endif %}
<div class="id">{{ clip.clip_id }}</div></div>
{% endmacro %}
<h1>{{ run.method }}{% if other %} beside {{ other.method }}{% endif %}</h1>
<p>Run {{ run.run }}{% if other %}; other run {{ other.run }}{% endif %}. Split
{{ config.split }}: {{ a.num_clips }} clips of {{ a.num_segments }} segments, {{ a.num_scored }} of
them with a label; {{ a.num_target_clips }} clips with a teacher's target.
Seed {{ config.seed }}.</p>
{% if a.left_out %}<p>Clips left out:
{% for reason, count in a.left_out.items() %}{{ reason }} {{ count }}{{ "; " if not loop.last }}
{%- endfor %}.</p>{% endif %}
{% if a.num_not_in_common %}<p>{{ a.num_not_in_common }} more clips are left out because the other
run cannot use them.</p>{% endif %}

<h2>Feature space</h2>
{% if run.features %}
<table>
<tr><th></th><th>L1 norm</th><th>per dimension</th><th>cosine</th><th>linear CKA</th>
{% for item in run.neighbours %}<th>neighbours, {{ item.k }}</th>{% endfor %}</tr>
{% for r in runs %}
<tr><td>{{ r.method }}</td><td>{{ share(r.features.l1_norm) }}</td>
<td>{{ share(r.features.l1_per_dimension) }}</td><td>{{ share(r.features.cosine) }}</td>
<td>{{ share(r.features.cka) }}</td>
{% for item in r.neighbours %}<td>{{ share(item.recall) }}</td>{% endfor %}</tr>
{% endfor %}
<tr><td>one constant; chance</td><td>{{ share(run.features.constant_l1_norm) }}</td><td></td>
<td>{{ share(run.features.constant_cosine) }}</td><td></td>
{% for item in run.neighbours %}<td>{{ share(item.chance) }}</td>{% endfor %}</tr>
</table>
<p class="note">The student's z against the teacher's feature of the same clips. One constant: the
mean of the teacher's features of this split, given for every clip. Neighbours: the share of the
teacher's k nearest clips (of other segments, by cosine) that are among the student's k nearest.
A dash: the student was not trained to be near this teacher, or it cannot be known.</p>
{% else %}<p>No clip of this split has a teacher's target.</p>{% endif %}

{% if a.by_motion %}
<h2>Reconstruction by head motion</h2>
<table><tr><th>turning, rad/s (rms)</th><th>clips</th><th>cosine</th>
{% if other %}<th>other's</th>{% endif %}</tr>
{% for g in a.by_motion %}
<tr><td>{{ "%.3f to %.3f" | format(g.gyro_rms_from, g.gyro_rms_to) }}</td><td>{{ g.num_clips }}</td>
<td>{{ share(g.cosine) }}</td>{% if other %}<td>{{ share(g.other_cosine) }}</td>{% endif %}</tr>
{% endfor %}</table>
{% endif %}

{% for title, clips in (("Best", a.best), ("Worst", a.worst)) if clips %}
<h2>{{ title }} reconstructed clips</h2>
<div class="clips">{% for clip in clips %}{{ card(clip) }}{% endfor %}</div>
{% endfor %}
{% if a.best %}<p class="note">By cosine, one clip of a segment at most. All stored frames are
shown; the student sees fewer. Curves: magnitude of acceleration (red, full height
{{ "%.1f" | format(highest_accel) }} m/s²) and turning (blue,
{{ "%.1f" | format(highest_gyro) }} rad/s), the clip's mean removed.</p>{% endif %}

{% if run.exchange %}
<h2>One frame, several IMU windows</h2>
<table><tr><th></th><th>nearest clip changes</th><th>of the {{ run.exchange.k }} nearest change</th>
<th>have the frame's label</th><th>chance</th><th>have the IMU's label</th><th>chance</th></tr>
{% for r in runs %}{% set x = r.exchange %}
<tr><td>{{ r.method }}</td><td>{{ share(x.top1_changed) }}</td><td>{{ share(x.topk_changed) }}</td>
<td>{{ share(x.frame_label) }}</td><td>{{ share(x.frame_label_chance) }}</td>
<td>{{ share(x.imu_label) }}</td><td>{{ share(x.imu_label_chance) }}</td></tr>
{% endfor %}</table>
<p class="note">{{ run.exchange.num_frames }} frames, each with its own IMU and with that of
{{ run.exchange.num_imus }} clips of other segments. For each, the nearest clips by cosine in
{% for r in runs %}{{ "the teacher's features" if r.gallery == "teacher"
else "the student's own features" }} ({{ r.method }}){{ " and " if not loop.last }}{% endfor %};
clips of the frame's and of all the IMUs' own segments are passed over. Labels: over
{{ run.exchange.num_label_pairs }} frames and foreign IMUs whose segments have different labels.
A method without IMU has one answer per frame.</p>
{% for example in examples %}
<h3>Frame of {{ example.label or "–" }}</h3>
<div class="id">{{ example.clip_id }}</div>{{ strip(example.clip_id) }}
{% for row in example.rows %}
<div class="row">{{ row.method }}
{%- if row.imu %}, {{ "its own IMU" if row.is_own else "IMU of " ~ (row.imu_label or "–") }}:
{{ motion(row.imu) }}{% endif %}
<div class="clips">{% for found in row.found %}<div class="clip">{{ strip(found.clip_id) }}<br>
<b>{{ found.label or "–" }}</b>, cosine {{ share(found.similarity) }}
<div class="id">{{ found.clip_id }}</div></div>{% endfor %}</div></div>
{% endfor %}{% endfor %}
{% if examples %}<p class="note">Drawn at random, not picked.</p>{% endif %}
{% endif %}

{% if other %}
<h2>Ambiguous pairs</h2>
{% if a.pairs %}
<table><tr><th>pair</th><th>confused by other</th><th>segments</th><th>{{ run.method }}</th>
<th>{{ other.method }}</th><th>gain, points</th><th>95 %</th></tr>
{% for p in a.pairs %}
<tr><td>{{ p.names[0] }} / {{ p.names[1] }}</td><td>{{ p.num_confused }}</td>
<td>{{ p.num_of_each[0] }} + {{ p.num_of_each[1] }}</td>
{% if p.result %}<td>{{ share(p.result.top1) }}</td><td>{{ share(p.result.other_top1) }}</td>
<td>{{ points(p.result.gain) }}</td>
<td>{{ points(p.result.gain_low) }} to {{ points(p.result.gain_high) }}</td>
{% else %}<td>–</td><td>–</td><td>–</td><td>–</td>{% endif %}</tr>
{% endfor %}</table>
<p class="note">Which of the two is likelier, over segments of both.
{% if config.pairs is none %}The pairs are those that the other run confuses most on one half of the
segments; they are scored on the other half, as luck in the choice would else count as gain.
{% else %}
The pairs were asked for; they are scored on all segments.{% endif %} Intervals: bootstrap over
segments.</p>
{% else %}<p>The other run confuses no two classes.</p>{% endif %}

<h2>Gain by class</h2>
{% if a.classes %}
<table><tr><th>class</th><th>segments</th><th>{{ run.method }}</th><th>{{ other.method }}</th>
<th>gain, points</th><th>95 %</th><th></th></tr>
{% for c in shown_classes %}
{% if c is none %}<tr><td colspan="7">…</td></tr>{% else %}
<tr><td>{{ c.name }}</td><td>{{ c.result.num_segments }}</td><td>{{ share(c.result.top1) }}</td>
<td>{{ share(c.result.other_top1) }}</td><td>{{ points(c.result.gain) }}</td>
<td>{{ points(c.result.gain_low) }} to {{ points(c.result.gain_high) }}</td>
<td style="text-align:left"><span class="bar {{ "up" if c.result.gain > 0 else "down" }}"
style="width:{{ "%.0f" | format(120 * c.result.gain | abs) }}px"></span></td></tr>
{% endif %}{% endfor %}</table>
{% else %}<p>No segment has a label.</p>{% endif %}
{% endif %}
</body>
</html>
"""


def report_html(
    analysis: Analysis,
    clips: ClipSet,
    table: pl.DataFrame,
    retrievals: Sequence[Retrieval],
    inputs: FeatureStore,
) -> str:
    """The HTML page.

    clips: what the retrievals' indices refer to. table: as clip_table makes it.

    Raises:
        StoreError: if a frame cannot be decoded.
    """
    label_of = dict(zip(table["clip_id"], table["label"], strict=True))
    examples = _examples(retrievals, clips, label_of, at_most=analysis.config.num_examples)
    shown = [clip.clip_id for clip in (*analysis.best, *analysis.worst)]
    for example in examples:
        shown.append(example["clip_id"])
        for row in example["rows"]:
            shown += [row["imu"]] if row["imu"] else []
            shown += [found["clip_id"] for found in row["found"]]
    pictures = clip_pictures(inputs, shown)
    highest_accel = max((_highest(p.accel_W) for p in pictures.values()), default=0.0)
    highest_gyro = max((_highest(p.gyro_W) for p in pictures.values()), default=0.0)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(REPORT).render(
        a=analysis,
        config=analysis.config,
        run=analysis.run,
        other=analysis.other,
        runs=[analysis.run] + ([analysis.other] if analysis.other else []),
        examples=examples,
        pictures={
            clip_id: _drawn(picture, highest_accel, highest_gyro)
            for clip_id, picture in pictures.items()
        },
        highest_accel=highest_accel,
        highest_gyro=highest_gyro,
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
        shown_classes=_ends(analysis.classes),
    )


def _examples(
    retrievals: Sequence[Retrieval],
    clips: ClipSet,
    label_of: dict[str, str | None],
    *,
    at_most: int,
) -> list[dict[str, Any]]:
    """Queries as the template shows them, evenly from those that were drawn."""
    if not retrievals or not at_most:
        return []
    ids = [clip.clip_id for clip in clips.clips]
    exchange = retrievals[0].exchange
    num_queries = len(exchange.frame_Q)
    picked = sorted({number * num_queries // at_most for number in range(at_most)})
    examples = []
    for query in picked:
        rows = []
        for item in retrievals:
            num_imus = min(NUM_SHOWN_IMUS, exchange.donor_QM.shape[1])
            for place in range(num_imus if item.uses_imu else 1):
                imu = ids[int(exchange.donor_QM[query, place])]
                found = zip(
                    item.index_QMk[query, place].tolist(),
                    item.similarity_QMk[query, place].tolist(),
                    strict=True,
                )
                rows.append(
                    {
                        "method": item.method,
                        "imu": imu if item.uses_imu else None,
                        "is_own": place == 0,
                        "imu_label": label_of[imu],
                        "found": [
                            {
                                "clip_id": ids[index],
                                "label": label_of[ids[index]],
                                "similarity": similarity,
                            }
                            for index, similarity in found
                            if index != NONE
                        ][:NUM_SHOWN_CLIPS],
                    }
                )
        frame = ids[int(exchange.frame_Q[query])]
        examples.append({"clip_id": frame, "label": label_of[frame], "rows": rows})
    return examples


def _drawn(picture: ClipPicture, highest_accel: float, highest_gyro: float) -> dict[str, Any]:
    return {
        "frames": picture.frames,
        "accel": plot_points(picture.accel_W, highest=highest_accel),
        "gyro": plot_points(picture.gyro_W, highest=highest_gyro),
    }


def _highest(magnitude_W: Any) -> float:
    return float(magnitude_W.max()) if len(magnitude_W) else 0.0


def _ends(classes: tuple[ClassGain, ...]) -> tuple[ClassGain | None, ...]:
    """All of them, or the best and the worst with None between."""
    if len(classes) <= 2 * NUM_SHOWN_CLASSES:
        return classes
    return (*classes[:NUM_SHOWN_CLASSES], None, *classes[-NUM_SHOWN_CLASSES:])
