"""Gathers what a run folder holds and renders it into one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from selfilter_ray import atomic
from selfilter_ray.config import LimitsConfig, ReportConfig
from selfilter_ray.report import figures
from selfilter_ray.report.correlation import correlations, section
from selfilter_ray.report.histogram import difficulty_histogram
from selfilter_ray.report.loss_curve import loss_curve
from selfilter_ray.report.overview import overview
from selfilter_ray.report.quarantine import quarantine_reasons
from selfilter_ray.report.scatter import length_scatter
from selfilter_ray.report.sheets import contact_sheets
from selfilter_ray.report.source_shares import source_shares
from selfilter_ray.report.stages import stage_rows
from selfilter_ray.report.tables import load_tables
from selfilter_ray.run_folder import RunFolder

COMPARE_PAGE = "compare.html"


def write_report(folder: RunFolder, config: ReportConfig) -> None:
    """Write ``report.html`` of a run folder.

    Parts of the manifest, the metrics and the quarantine may be missing: their sections say so.
    """
    page = environment().get_template("report.html.j2").render(_context(folder, config))
    # JSON lines can hold half a surrogate pair, which UTF-8 cannot
    atomic.write_text(folder.report, page.encode("utf-8", "replace").decode("utf-8"))


def _context(folder: RunFolder, config: ReportConfig) -> dict[str, Any]:
    manifest = folder.manifest()
    tables = load_tables(folder)
    counts = section(manifest, "counts")
    reasons = quarantine_reasons(folder.quarantine, section(counts, "quarantined"))
    seed = manifest.get("seed")
    return {
        "name": folder.path.name,
        "compared": (folder.path / COMPARE_PAGE).exists(),
        "created": manifest.get("created"),
        "seed": seed,
        "overview": overview(manifest, tables, reasons),
        "correlations": correlations(manifest),
        "histogram": difficulty_histogram(tables.difficulty, tables.difficulty[tables.chosen]),
        "scatter": length_scatter(tables, seed if isinstance(seed, int) and seed >= 0 else 0),
        "loss": loss_curve(folder.metrics),
        "sources": source_shares(folder, tables.selection.column("id")),
        "sheets": contact_sheets(folder, tables, config, limits_of(manifest)),
        "reasons": reasons,
        "stages": stage_rows(section(manifest, "stages")),
        "settings": _settings(section(manifest, "config")),
        "inputs": [item for item in manifest.get("inputs") or [] if isinstance(item, Mapping)],
        "versions": section(manifest, "versions"),
        "models": section(manifest, "models"),
    }


def limits_of(manifest: Mapping[str, Any]) -> LimitsConfig:
    """The limits that the images of this run were checked against."""
    data = section(section(manifest, "config"), "data")
    try:
        return LimitsConfig.model_validate(section(data, "limits"))
    except ValidationError:
        return LimitsConfig()


def _settings(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def environment() -> Environment:
    """Jinja2 as every page of this package is rendered: all values escaped, none missing."""
    environment = Environment(
        loader=PackageLoader("selfilter_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=figures.count,
        figure=figures.figure,
        correlation=figures.correlation,
        duration=figures.duration,
        size=figures.size,
        moment=figures.moment,
    )
    environment.globals["share"] = figures.share
    return environment
