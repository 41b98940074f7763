"""The page of a comparison: it holds the numbers, and is one safe file."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selfilter_ray.compare.comparison import compare
from selfilter_ray.compare.entries import entries_of
from selfilter_ray.compare.files import read_comparison, write_comparison
from selfilter_ray.compare.result import Comparison
from selfilter_ray.compare.settings import CompareConfig
from selfilter_ray.config import ReportConfig
from selfilter_ray.errors import DataError
from selfilter_ray.report import write_report
from selfilter_ray.report.compare_page import write_compare_page
from selfilter_ray.report.figures import figure, share
from selfilter_ray.report.panels import panels
from selfilter_ray.report.tradeoff import NUMBER_HEIGHT, NUMBER_WIDTH, spread_numbers
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import table_of, write_samples
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.select import registry
from selfilter_ray.select.contract import Pool, Selection, pool_of

ROWS, BUDGET = 40, 8
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=y>"


class Page(HTMLParser):
    """Elements with their attributes, table rows of texts, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self._open = False
        self.feed(text)
        self.words = re.sub(r"\s+", " ", self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False
            self.rows[-1][-1] = " ".join(self.rows[-1][-1].split())

    def handle_data(self, data: str) -> None:
        self.words += data + " "
        if self._open:
            self.rows[-1][-1] += data + " "

    def all(self, tag: str, style: str = "") -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [item for item in found if not style or style in (item.get("class") or "").split()]


def make_pool(suffix: str = "", known: bool = True) -> Pool:
    rng = np.random.default_rng(8)
    columns = {"difficulty": rng.normal(size=ROWS), "answer_tokens": rng.integers(1, 50, ROWS)}
    return pool_of(
        [f"r{row:02d}{suffix}" for row in range(ROWS)],
        [("photos" if row % 4 else "charts") + suffix for row in range(ROWS)],
        rng.normal(size=(ROWS, 6)) if known else None,
        columns if known else {},
    )


def make_folder(path: Path, pool: Pool, text: str = "A dog.") -> RunFolder:
    folder = RunFolder(path / "my-run")
    folder.path.mkdir()
    photo = path / "photo.jpg"
    Image.new("RGB", (200, 100), (200, 30, 30)).save(photo)
    samples = [
        Sample(id, source, (Turn(USER, "What?"), Turn(ASSISTANT, text)), (str(photo),), "a#0", "{}")
        for id, source in zip(pool.ids, pool.sources, strict=True)
    ]
    write_samples(folder.samples, table_of(samples))
    if pool.columns:
        pq.write_table(
            pa.table(
                {
                    "id": pa.array(pool.ids, pa.string()),
                    "difficulty": pa.array(pool.columns["difficulty"], pa.float32()),
                    "answer_tokens": pa.array(pool.columns["answer_tokens"], pa.int32()),
                }
            ),
            folder.scores,
        )
    folder.save_manifest({"format": 1, "stages": {}})
    return folder


def comparison_of(pool: Pool, *methods: Any, **more: Any) -> Comparison:
    entries = entries_of(CompareConfig(methods=list(methods)).methods, pool)
    return compare(pool, entries, more.pop("seeds", (0, 1, 2)), more.pop("budget", BUDGET), **more)


def render(folder: RunFolder, comparison: Comparison) -> tuple[str, Page]:
    file = write_compare_page(folder, comparison, ReportConfig(thumbnail_pixels=48))
    assert file == folder.path / "compare.html"
    text = file.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_table_holds_the_numbers(tmp_path: Path) -> None:
    pool = make_pool()
    comparison = comparison_of(pool, "selfilter", "semdedup")
    _, page = render(make_folder(tmp_path, pool), comparison)
    headings = next(row for row in page.rows if row[0] == "Method" and "Coverage" in row)
    rows = {
        row[0]: dict(zip(headings, row, strict=True))
        for row in page.rows
        if len(row) == len(headings)
    }
    ours, random = rows["1 selfilter every seed alike"], rows["3 random"]
    metrics = comparison.methods[0].metrics
    assert ours["Coverage"] == figure(metrics["coverage"].mean)
    assert ours["Difficulty"] == figure(metrics["difficulty"].mean)
    assert ours["Source KL"] == f"{metrics['source_kl'].mean:.4f}"
    assert ours["Seeds"] == "100.0 %"
    assert ours["Random"] == share(comparison.overlap_with_reference("selfilter"), 1.0)
    spread = comparison.methods[2].metrics["difficulty"]
    assert random["Difficulty"].startswith(f"{figure(spread.mean)} \u00b1 ")
    assert random["Random"] == ""
    assert rows["whole pool"]["Answer tokens"] == figure(comparison.pool.metrics["tokens"])
    assert "3 ways of choosing 8 of 40 records (20.0 %), each with 3 seeds." in page.words


def test_every_figure_is_drawn(tmp_path: Path) -> None:
    pool = make_pool()
    costs = {"selfilter": {"train": 90.0, "featurize": 30.0}}
    comparison = comparison_of(pool, "selfilter", "semdedup", costs=costs)
    text, page = render(make_folder(tmp_path, pool), comparison)
    assert len(page.all("g", "mark")) == 3
    assert len(page.all("g", "cell")) == 9
    assert len(page.all("div", "panel")) == 6
    assert len(page.all("article", "card")) == 18
    assert len(page.all("img")) == 18
    assert "2 min 00 s" in page.words
    assert "train 1 min 30 s, featurize 30.0 s" in page.words
    overlap = comparison.overlap
    assert f"{100 * overlap.share[0][1]:.0f}" in re.findall(r">(\d+)</text></g>", text)
    bars = [row for row in page.rows if len(row) == 3 and row[0].endswith("pool")]
    assert bars, "the pool is the first bar of the sources"
    photos = f"pool: photos, {share(0.75, 1.0)}"
    assert photos in page.words


def test_one_file_with_one_allowed_script(tmp_path: Path) -> None:
    pool = make_pool()
    text, page = render(make_folder(tmp_path, pool), comparison_of(pool, "semdedup"))
    assert "http://" not in text
    assert "https://" not in text
    assert not page.all("link")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(item["content"] for item in page.all("meta") if item.get("http-equiv"))
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    values = re.findall(r'<td class="number" data-value="([^"]+)">', text)
    assert all(np.isfinite(float(value)) for value in values)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(item.get("aria-label") for item in page.all("svg") if item.get("role") == "img")


def test_everything_of_the_user_is_escaped(tmp_path: Path) -> None:
    pool = make_pool(suffix=HOSTILE)

    def fragile(pool: Pool, budget: int, seed: int, settings: Any) -> Selection:
        if settings.method == "semdedup":
            raise DataError(f"failed {HOSTILE}")
        return registry.select(pool, budget, seed, settings)

    comparison = comparison_of(
        pool,
        {"method": "selfilter", "label": f"ours {HOSTILE}"},
        {"method": "semdedup", "label": f"other {HOSTILE}"},
        costs={f"ours {HOSTILE}": {HOSTILE: 3.0}},
        select=fragile,
    )
    text, page = render(make_folder(tmp_path, pool, HOSTILE), comparison)
    assert len(page.all("script")) == 1
    assert text.count("<script") == 1
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert all(str(item["src"]).startswith("data:image/jpeg") for item in page.all("img"))
    assert f"failed {HOSTILE}" in page.words
    assert f"charts{HOSTILE}" in page.words


def test_report_and_page_link_to_each_other(tmp_path: Path) -> None:
    pool = make_pool()
    folder = make_folder(tmp_path, pool)
    _, alone = render(folder, comparison_of(pool, "semdedup"))
    assert "report.html" not in [item.get("href") for item in alone.all("a")]
    assert not folder.report.exists()
    (folder.path / "compare.html").unlink()
    write_report(folder, ReportConfig())
    assert "compare.html" not in folder.report.read_text()
    _, page = render(folder, comparison_of(pool, "semdedup"))
    assert "report.html" in [item.get("href") for item in page.all("a")]
    links = [item.get("href") for item in Page(folder.report.read_text()).all("a")]
    assert "compare.html" in links


def test_the_page_of_what_was_read_back_is_the_same(tmp_path: Path) -> None:
    pool = make_pool()
    folder = make_folder(tmp_path, pool)
    comparison = comparison_of(pool, "selfilter")
    write_comparison(folder.path, comparison)
    assert render(folder, comparison)[0] == render(folder, read_comparison(folder.path))[0]


def test_failures_are_listed(tmp_path: Path) -> None:
    pool = make_pool()
    _, page = render(make_folder(tmp_path, pool), comparison_of(pool, "semdedup", "el2n"))
    row = next(row for row in page.rows if row[0] == "el2n")
    assert row[1] == "0, 1, 2"
    assert "pre_el2n" in row[2]


@pytest.mark.parametrize("budget", [0, 1, ROWS])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_any_budget(tmp_path: Path, budget: int, seeds: tuple[int, ...]) -> None:
    pool = make_pool()
    comparison = comparison_of(pool, "selfilter", seeds=seeds, budget=budget)
    text, page = render(make_folder(tmp_path, pool), comparison)
    assert f"choosing {budget} of 40 records" in page.words
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text).lower()
    assert len(page.all("article", "card")) == 2 * min(budget, 6)
    assert ("there is nothing to draw" in page.words) == (budget < 2)


def test_a_pool_of_which_nothing_is_known(tmp_path: Path) -> None:
    pool = make_pool(known=False)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    _, page = render(folder, comparison_of(pool, "random"))
    assert "No answer length is known." in page.words
    assert "No difficulty is known." in page.words
    assert "there is nothing to draw" in page.words
    headings = next(row for row in page.rows if row[0] == "Method")
    assert headings == ["Method", "Source KL", "Seeds", "Seconds"]


def test_panels_share_their_bins_and_height() -> None:
    pool = make_pool()
    comparison = comparison_of(pool, "selfilter")
    chart = panels(comparison, "difficulty", "difficulty")
    assert chart is not None
    paths = [chart.pool_path, *(panel.path for panel in chart.panels)]
    heights = [-float(height) for path in paths for height in re.findall(r"1000v(-[\d.]+)h", path)]
    assert max(heights) == 1000
    assert panels(comparison, "unknown", "difficulty") is None


def test_numbers_of_marks_do_not_lie_on_each_other() -> None:
    rng = np.random.default_rng(0)
    crowd = np.concatenate([np.full((8, 2), 50.0), rng.normal(50, 3, (8, 2)), [[0, 0], [100, 100]]])
    numbers = spread_numbers(crowd)
    for one, other in combinations(numbers, 2):
        apart = np.abs(one - other)
        assert apart[0] >= NUMBER_WIDTH - 1e-9 or apart[1] >= NUMBER_HEIGHT - 1e-9
    assert (numbers.min() >= -4) and (numbers.max() <= 104)
