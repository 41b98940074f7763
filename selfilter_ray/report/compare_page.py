"""The page of a comparison: ``compare.html`` beside ``report.html``, in the same dress."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import yaml

from selfilter_ray import atomic
from selfilter_ray.compare.result import Comparison
from selfilter_ray.compare.trained.result import TrainedComparison
from selfilter_ray.config import ReportConfig
from selfilter_ray.report.build import COMPARE_PAGE, environment, limits_of, write_report
from selfilter_ray.report.compare_bars import cost_bars, source_bars
from selfilter_ray.report.compare_sheet import first_picks
from selfilter_ray.report.compare_table import compare_table, nats
from selfilter_ray.report.overlap_map import overlap_map
from selfilter_ray.report.panels import panels
from selfilter_ray.report.tradeoff import tradeoff
from selfilter_ray.report.trained_chart import trained_chart
from selfilter_ray.report.trained_table import headings, trained_tables, yardsticks
from selfilter_ray.run_folder import RunFolder

SORT_SCRIPT = "compare_sort.js"


def write_compare_page(
    folder: RunFolder,
    comparison: Comparison,
    config: ReportConfig | None = None,
    trained: TrainedComparison | None = None,
) -> Path:
    """Write ``compare.html``, and a report that is there already anew, so that it links to it.

    Args:
        folder: of a run; what it lacks (samples, scores, manifest) is missing on the page too.
        comparison: with or without its picks.
        config: size of the thumbnails.
        trained: what the methods taught a model, where that was tried.
    """
    config = config or ReportConfig()
    templates = environment()
    templates.globals["nats"] = nats
    # As a value, not as a template: the page allows the script by the hash of exactly this text.
    script = templates.get_template(SORT_SCRIPT).render()
    context = _context(folder, comparison, config, trained) | {
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    page = templates.get_template("compare.html.j2").render(context)
    file = folder.path / COMPARE_PAGE
    atomic.write_text(file, page.encode("utf-8", "replace").decode("utf-8"))
    if folder.report.exists():
        write_report(folder, config)
    return file


def _context(
    folder: RunFolder,
    comparison: Comparison,
    config: ReportConfig,
    trained: TrainedComparison | None,
) -> dict[str, Any]:
    manifest = folder.manifest()
    return {
        "name": folder.path.name,
        "reported": folder.report.exists(),
        "comparison": comparison,
        "table": compare_table(comparison),
        **_trained(trained),
        "tradeoff": tradeoff(comparison),
        "overlap": overlap_map(comparison),
        "sources": source_bars(comparison),
        "lengths": panels(comparison, "answer_tokens", "tokens"),
        "difficulties": panels(comparison, "difficulty", "difficulty"),
        "costs": cost_bars(comparison),
        "sheets": first_picks(folder, comparison, config, limits_of(manifest)),
        "settings": [
            yaml.safe_dump(method.settings, sort_keys=False, allow_unicode=True)
            for method in comparison.methods
        ],
    }


def _trained(trained: TrainedComparison | None) -> dict[str, Any]:
    if trained is None:
        return {"trained": None}
    return {
        "trained": trained,
        "trained_chart": trained_chart(trained),
        "trained_headings": headings(trained),
        "trained_tables": trained_tables(trained),
        "trained_yardsticks": yardsticks(trained),
    }
