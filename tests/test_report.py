"""The report: what it says is right, and it is one safe file whatever the run holds."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selfilter_ray.config import LimitsConfig, ReportConfig
from selfilter_ray.report import write_report
from selfilter_ray.report.axis import linear_axis, log_axis
from selfilter_ray.report.figures import MINUS, correlation, count, duration, figure, share, size
from selfilter_ray.report.histogram import difficulty_histogram
from selfilter_ray.report.loss_curve import loss_curve
from selfilter_ray.report.scatter import CHOSEN_POINTS, POOL_POINTS, length_scatter
from selfilter_ray.report.sheets import telling_picks
from selfilter_ray.report.source_shares import source_shares
from selfilter_ray.report.tables import load_tables
from selfilter_ray.report.thumbnail import thumbnail
from selfilter_ray.run_folder import RunFolder

TURNS = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))
SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("turns", TURNS),
        ("images", pa.list_(pa.string())),
        ("locator", pa.string()),
        ("record", pa.string()),
    ]
)
SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("weight", pa.float32()),
        ("difficulty", pa.float32()),
        ("answer_tokens", pa.int32()),
        ("train_loss", pa.float32()),
        ("clip_score", pa.float32()),
    ]
)
SELECTION = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.int64()),
        ("difficulty_at_pick", pa.float32()),
        ("penalty", pa.float32()),
        ("nearest_earlier_id", pa.string()),
        ("nearest_earlier_similarity", pa.float32()),
        ("penalised_ids", pa.list_(pa.string())),
        ("penalised_similarity", pa.list_(pa.float32())),
    ]
)


def sample(id: str, images: list[str], **fields: Any) -> dict[str, Any]:
    question, answer = fields.get("question", "<image>\nWhat?"), fields.get("answer", f"This {id}.")
    turns = [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]
    return {
        "id": id,
        "source": fields.get("source", "photos"),
        "turns": fields.get("turns", turns),
        "images": images,
        "locator": f"pool.json#{id}",
        "record": "RECORD" * 100,
    }


def score(id: str, difficulty: float | None, tokens: int | None = 10) -> dict[str, Any]:
    return {"id": id, "weight": 1.0, "difficulty": difficulty, "answer_tokens": tokens}


def pick(id: str, rank: int, pushed: dict[str, float] | None = None) -> dict[str, Any]:
    pushed = pushed or {}
    return {
        "id": id,
        "rank": rank,
        "difficulty_at_pick": 0.5,
        "penalty": 0.25 if rank else 0.0,
        "penalised_ids": list(pushed),
        "penalised_similarity": list(pushed.values()),
    }


def write_tables(
    folder: RunFolder,
    samples: list[dict[str, Any]],
    scores: list[dict[str, Any]],
    picks: list[dict[str, Any]],
) -> None:
    folder.samples.mkdir(parents=True, exist_ok=True)
    half = len(samples) // 2
    for number, rows in enumerate((samples[:half], samples[half:])):
        table = pa.Table.from_pylist(rows, SAMPLES)
        pq.write_table(table, folder.samples / f"part-{number:05d}.parquet")
    pq.write_table(pa.Table.from_pylist(scores, SCORES), folder.scores)
    pq.write_table(pa.Table.from_pylist(picks, SELECTION), folder.selection)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (400, 200), (200, 30, 30)).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, photo: str) -> RunFolder:
    """Forty records, ten of them chosen; record k has difficulty k / 39."""
    folder = RunFolder(tmp_path / "my-run")
    names = [f"r{number:02d}" for number in range(40)]
    sources = ["photos" if number < 30 else "charts" for number in range(40)]
    samples = [sample(n, [photo], source=s) for n, s in zip(names, sources, strict=True)]
    scores = [score(name, number / 39, 5 + number) for number, name in enumerate(names)]
    order = [39, 38, 37, 36, 35, 34, 33, 32, 20, 10]
    picks = [
        pick(names[row], rank, {names[row - 1]: 0.9, names[row - 2]: 0.8})
        for rank, row in enumerate(order)
    ]
    write_tables(folder, samples, scores, picks[::-1])
    folder.save_manifest({"format": 1, "stages": {}, "counts": {"in": 43}})
    return folder


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.words = re.sub(r"\s+", " ", self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + " "

    def all(self, tag: str, style: str = "") -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [item for item in found if style in (item.get("class") or "").split() or not style]

    def total(self, tag: str, attribute: str, style: str = "") -> int:
        return sum(int(item.get(attribute) or 0) for item in self.all(tag, style))


def render(folder: RunFolder, **settings: int) -> tuple[str, Page]:
    write_report(folder, ReportConfig(**settings))
    text = folder.report.read_text(encoding="utf-8")
    return text, Page(text)


def test_summary_and_tiles(folder: RunFolder) -> None:
    lines = [{"reason": "image_missing", "locator": f"a#{n}", "detail": "gone"} for n in range(3)]
    folder.quarantine.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, page = render(folder)
    assert "my-run" in page.words
    assert "10 of 40 records chosen (25.0 %)" in page.words
    assert "3 of 43 read were not usable" in page.words
    assert "Records in 43" in page.words
    assert "Usable 40 93.0 %" in page.words
    assert "Quarantined 3 7.0 %" in page.words
    assert "Mean difficulty, pool 0.500" in page.words
    assert "Mean difficulty, chosen 0.805" in page.words


def test_one_file_without_scripts_or_addresses(folder: RunFolder) -> None:
    text, page = render(folder)
    assert "http://" not in text
    assert "https://" not in text
    assert not page.all("script")
    assert not page.all("link")
    assert all(str(item["src"]).startswith("data:image/jpeg;base64,") for item in page.all("img"))
    assert "RECORD" not in text


def test_headings_are_in_order_and_pictures_have_texts(folder: RunFolder) -> None:
    _, page = render(folder)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(item.get("alt") for item in page.all("img"))
    assert all(item.get("aria-label") for item in page.all("svg") if item.get("role") == "img")


def test_everything_of_the_user_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>\"><img src=x onerror=y>"
    folder = RunFolder(tmp_path / "run")
    records = [sample(f"{n}{bad}", [], question=bad, answer=bad, source=bad) for n in range(2)]
    scores = [score(record["id"], 0.5 + n) for n, record in enumerate(records)]
    write_tables(folder, records, scores, [pick(f"1{bad}", 0, {f"0{bad}": 0.99})])
    quarantine = {"reason": bad, "locator": bad, "id": bad, "detail": bad, "remedy": bad}
    folder.quarantine.write_text(json.dumps(quarantine) + "\n")
    folder.save_manifest(
        {
            "format": 1,
            "config": {bad: bad},
            "seed": bad,
            "created": bad,
            "inputs": [{"path": bad, "bytes": bad, "sha256": bad}],
            "versions": {bad: bad},
            "models": {bad: bad},
            "stages": {bad: {"key": "k", "rows": bad, "seconds": bad}},
        }
    )
    text, page = render(folder)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not page.all("img")
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]


def test_histogram_counts_every_record_once(folder: RunFolder) -> None:
    _, page = render(folder)
    assert page.total("g", "data-pool", "bin") == 40
    assert page.total("g", "data-chosen", "bin") == 10
    heights = [float(str(item["height"]).rstrip("%")) for item in page.all("rect", "chosen")[:8]]
    assert all(0 <= height <= 100 for height in heights)


def test_histogram_bins_hold_the_right_records() -> None:
    pool = np.array([0.1, 0.1, 0.1, 0.9, np.nan])
    chart = difficulty_histogram(pool, np.array([0.9]))
    assert chart is not None
    filled = [(item.pool, item.chosen) for item in chart.bins if item.pool or item.chosen]
    assert filled == [(3, 0), (1, 1)]
    pool_share = chart.bins[0].pool_height * chart.y.high / 100
    assert pool_share == pytest.approx(75.0)
    assert chart.bins[-1].title == ("difficulty 0.800 to 1.00: pool 1 (25.0 %), chosen 1 (100.0 %)")


def test_far_values_go_to_the_end_bins() -> None:
    pool = np.concatenate([np.linspace(0, 1, 10_000), [1e6]])
    chart = difficulty_histogram(pool, np.array([1e6]))
    assert chart is not None
    assert chart.x.high < 2
    assert chart.outside == 1
    assert sum(item.pool for item in chart.bins) == 10_001
    assert chart.bins[-1].chosen == 1


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 1e-12, 1e12])
def test_histogram_of_equal_values(value: float) -> None:
    chart = difficulty_histogram(np.full(5, value), np.full(2, value))
    assert chart is not None
    assert sum(item.pool for item in chart.bins) == 5
    assert sum(item.chosen for item in chart.bins) == 2
    assert chart.x.ticks


def test_shares_per_source(folder: RunFolder) -> None:
    _, page = render(folder)
    rows = {row.name: row for row in source_shares(folder, load_tables(folder).selection["id"])}
    assert rows["photos"].pool_share == pytest.approx(0.75)
    assert rows["photos"].chosen_share == pytest.approx(0.2)
    assert rows["charts"].chosen_share == pytest.approx(0.8)
    assert page.total("tr", "data-pool") == 40
    assert page.total("tr", "data-chosen") == 10
    assert "75.0 % 30" in page.words
    assert "80.0 % 8" in page.words


def test_many_sources_are_taken_together(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    records = [sample(f"{n:03d}", [], source=f"s{min(n, 29):02d}") for n in range(60)]
    write_tables(folder, records, [], [])
    rows = source_shares(folder, pa.chunked_array([pa.array(["005", "059"])]))
    assert len(rows) == 21
    assert (rows[0].name, rows[0].pool, rows[0].chosen) == ("s29", 31, 1)
    assert (rows[-1].name, rows[-1].pool) == ("other (10 sources)", 10)
    assert sum(row.pool_share for row in rows) == pytest.approx(1.0)


def test_hardest_and_easiest(folder: RunFolder) -> None:
    text, _ = render(folder, sheet_images=4)
    hardest = re.findall(r'<code title="(r\d+)"', section_of(text, "hardest"))
    easiest = re.findall(r'<code title="(r\d+)"', section_of(text, "easiest"))
    assert hardest == ["r39", "r38", "r37", "r36"]
    assert easiest == ["r00", "r01", "r02", "r03"]
    assert "rank 3" in section_of(text, "hardest")
    assert "not chosen" in section_of(text, "easiest")


def test_picks_show_what_they_pushed_down(folder: RunFolder) -> None:
    text, page = render(folder, sheet_images=8)
    shown = section_of(text, "picks")
    assert re.findall(r'<code title="(r\d+)"', shown) == ["r39", "r38", "r37", "r34", "r33", "r32"]
    assert "cosine 0.900" in shown
    assert "Pushed down 2 records." in page.words
    assert "The pick itself had lost 0.250 to earlier picks and stood at 0.500" in page.words


PLAIN_PICKS = ["id", "rank"]


def chosen_by(folder: RunFolder, method: str, *stages: str) -> tuple[str, Page]:
    """The page of a run whose records another method chose."""
    picks = pq.read_table(folder.selection).select(PLAIN_PICKS)
    pq.write_table(picks, folder.selection)
    records = {stage: {"key": "k", "rows": 10, "seconds": 1.0} for stage in ("select", *stages)}
    records["select"]["method"] = method
    folder.save_manifest({"format": 1, "stages": records})
    return render(folder, sheet_images=4)


def test_another_method_shows_its_first_picks_beside_the_difficulties(folder: RunFolder) -> None:
    text, page = chosen_by(folder, "el2n", "train")
    assert "10 of 40 records chosen (25.0 %) by EL2N, mean difficulty 0.500" in page.words
    assert "EL2N run" in page.words
    shown = re.findall(r'<code title="(r\d+)"', section_of(text, "picks"))
    assert shown == ["r39", "r38", "r37", "r36"]
    assert "Hardest records" in page.words
    assert "pushed down" not in page.words
    assert "too near" not in page.words


def test_a_run_without_stage_1_says_so_and_shows_no_difficulties(folder: RunFolder) -> None:
    scores = pq.read_table(folder.scores)
    pq.write_table(scores.select(["id"]), folder.scores)
    text, page = chosen_by(folder, "semdedup")
    assert "10 of 40 records chosen (25.0 %) by SemDeDup without Stage 1." in page.words
    assert "ifficulty" not in page.words
    assert "n/a" not in page.words
    assert "First picks" in page.words
    assert "75.0 % 30" in page.words  # the sources
    targets = {item["href"] for item in page.all("a") if str(item["href"]).startswith("#")}
    assert targets <= {f"#{item.get('id')}" for item in page.all("section")}
    assert '<b title="difficulty">' not in text


def test_telling_picks_are_spread_over_the_ranking() -> None:
    similarity = [[0.5], [0.9], [], [0.7, 0.1], [0.2], [0.3]]
    rows = [
        pick(str(rank), rank, {str(n): value for n, value in enumerate(values)})
        for rank, values in enumerate(similarity)
    ]
    selection = pa.Table.from_pylist(rows, SELECTION)
    assert telling_picks(selection, 3) == [1, 3, 5]
    assert telling_picks(selection, 2) == [1, 3]
    assert telling_picks(selection, 6) == [0, 1, 3, 4, 5]
    assert telling_picks(selection.slice(2, 1), 3) == []


@pytest.mark.parametrize("rho", [0.72, -0.72])
def test_warning_when_difficulty_follows_length(folder: RunFolder, rho: float) -> None:
    assert "Mind the length" in with_correlation(folder, rho).words
    assert "train.loss_reduction: mean" in with_correlation(folder, rho).words
    assert "Mind the length" not in with_correlation(folder, rho / 2).words


def test_correlations_in_words(folder: RunFolder) -> None:
    assert "harder records tend to have longer answers" in with_correlation(folder, 0.4).words
    assert "harder records tend to have shorter answers" in with_correlation(folder, -0.4).words
    assert "practically unrelated" in with_correlation(folder, 0.02).words
    assert "is not known" in with_correlation(folder, None).words


def with_correlation(folder: RunFolder, rho: float | None) -> Page:
    correlations = {"difficulty_answer_length": rho, "difficulty_loss": None}
    folder.save_manifest(
        {"format": 1, "stages": {"train": {"key": "k", "correlations": correlations}}}
    )
    return render(folder)[1]


def section_of(text: str, name: str) -> str:
    found = re.search(rf'<section[^>]* id="{name}">(.*?)</section>', text, re.DOTALL)
    assert found
    return found.group(1)


def test_empty_selection(folder: RunFolder) -> None:
    pq.write_table(SELECTION.empty_table(), folder.selection)
    _, page = render(folder)
    assert "0 of 40 records chosen (0.0 %)." in page.words
    assert "Mean difficulty, chosen n/a" in page.words
    assert "No record was chosen." in page.words
    assert page.total("g", "data-chosen", "bin") == 0
    assert page.total("g", "data-pool", "bin") == 40


def test_one_text_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_tables(
        folder, [sample("one", [], question="Why?")], [score("one", 0.5)], [pick("one", 0)]
    )
    text, page = render(folder)
    assert "1 of 1 records chosen (100.0 %)" in page.words
    assert "Text only" in section_of(text, "hardest")
    assert "Why?" in section_of(text, "hardest")
    assert "Too few records" in section_of(text, "easiest")
    assert "No pick pushed another record down." in page.words


def test_unknown_values(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    scores = [score("a", float("nan"), None), score("b", 0.25, None), score("c", 0.75, 7)]
    records = [sample(name, [], turns=[]) for name in "abc"]
    broken = pick("c", 0, {"b": 0.5}) | {"penalised_ids": None, "penalised_similarity": None}
    write_tables(folder, records, scores, [broken | {"penalty": None}])
    text, page = render(folder)
    assert "Mean difficulty, pool 0.500" in page.words
    assert page.total("g", "data-pool", "bin") == 2
    assert "All 1 records with a known answer length" in page.words
    assert "(no answer)" in page.words
    assert "nan" not in re.sub(r"base64,[^\"]+", "", text).lower()


def test_nothing_but_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    _, page = render(folder)
    assert "0 of 0 records chosen." in page.words
    assert "No difficulty is known yet." in page.words
    assert "The manifest names no finished stage." in page.words


def test_missing_and_broken_images(tmp_path: Path, photo: str) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(photo).read_bytes()[:200])
    folder = RunFolder(tmp_path / "run")
    images = {"a": ["/nowhere/a.jpg"], "b": [str(broken)], "c": [photo, photo, photo]}
    records = [sample(name, paths) for name, paths in images.items()]
    write_tables(folder, records, [score(name, 0.5) for name in "abc"], [])
    text, page = render(folder)
    assert text.count("Image not found") == 2
    assert len(page.all("img")) == 1
    assert "+2" in page.words
    assert "&lt;image&gt;" not in text


def test_thumbnail_is_upright_on_white_and_small(tmp_path: Path) -> None:
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 100), "blue").save(turned, exif=exif)
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(clear)
    assert opened(thumbnail(turned, 80, LimitsConfig())).size == (20, 80)
    assert opened(thumbnail(clear, 80, LimitsConfig())).size == (50, 50)
    assert opened(thumbnail(clear, 80, LimitsConfig())).getpixel((25, 25)) == (255, 255, 255)


def test_images_are_held_to_the_limits_of_the_run(folder: RunFolder) -> None:
    limits = {"image_pixels": 400 * 200 - 1}
    manifest = {"format": 1, "stages": {}, "config": {"data": {"limits": limits}}}
    assert len(render(folder)[1].all("img")) > 0
    folder.save_manifest(manifest)
    assert len(render(folder)[1].all("img")) == 0


def opened(address: str | None) -> Image.Image:
    assert address is not None
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_long_answers_are_cut(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    answer = "word " * 20_000
    write_tables(folder, [sample("a", [], answer=answer)], [score("a", 0.5)], [])
    text, page = render(folder)
    title = page.all("p", "answer")[0]["title"]
    assert title is not None
    assert len(title) <= 1500
    assert title.endswith("word\u2026")
    assert len(text) < 100_000


def test_loss_curve(folder: RunFolder) -> None:
    assert "Stage 1 loss" not in render(folder)[1].words
    lines = [{"step": n, "loss": 4.0 - n / 100, "plain_loss": 4.5} for n in range(1, 321)]
    lines += [{"step": 1, "loss": 2.0, "plain_loss": 2.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 321, "lo'
    folder.stage1.mkdir()
    folder.metrics.write_text(text)
    curve = loss_curve(folder.metrics)
    assert curve is not None
    assert (curve.steps, curve.steps_per_point) == (320, 2)
    assert curve.first_loss == pytest.approx((2.0 + 3.98) / 2)
    assert curve.last_loss == pytest.approx(4.0 - 3.195)
    assert "320 optimizer steps; each point is the mean of 2" in render(folder)[1].words


def test_loss_curve_is_interrupted_where_the_loss_is_not_finite(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    losses = [3.0, 2.0, float("nan"), 2.0, 1.0]
    metrics.write_text(
        "".join(json.dumps({"step": n, "loss": v}) + "\n" for n, v in enumerate(losses))
    )
    curve = loss_curve(metrics)
    assert curve is not None
    assert curve.weighted_path == "M0 0L250 500M750 500L1000 1000h0"
    assert curve.plain_path == ""


def test_scatter_draws_a_sample_that_the_seed_decides(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    scores = [score(f"{n:05d}", n / 5000, 1 + n) for n in range(5000)]
    picks = [pick(f"{n:05d}", n) for n in range(1000)]
    write_tables(folder, [sample("00000", [])], scores, picks)
    tables = load_tables(folder)
    chart = length_scatter(tables, 0)
    assert chart is not None
    assert chart == length_scatter(tables, 0)
    assert chart != length_scatter(tables, 1)
    assert chart.pool_path.count("M") == chart.pool_points == POOL_POINTS
    assert chart.chosen_path.count("M") == chart.chosen_points == CHOSEN_POINTS
    assert (chart.pool_rows, chart.chosen_rows) == (4000, 1000)
    assert chart.x.logarithmic
    text, page = render(folder)
    assert "1,000 of 4,000 records not chosen, 500 of 1,000 chosen" in page.words
    assert len(text) < 200_000


def test_quarantine_table(folder: RunFolder) -> None:
    lines = [{"reason": "rare", "locator": "x#1", "detail": "half \ud800", "remedy": "Mend it."}]
    lines += [{"reason": "often", "locator": f"y#{n}", "id": f"id{n}"} for n in range(7)]
    folder.quarantine.write_text("".join(json.dumps(line) + "\n" for line in lines) + "cut {\n")
    text, page = render(folder)
    table = section_of(text, "quarantine")
    assert table.index("often") < table.index("rare")
    assert "often 7" in page.words
    assert "5 examples" in page.words
    assert "y#4" in table
    assert "y#5" not in table
    assert "Mend it." in table


def test_quarantine_counts_of_the_manifest(folder: RunFolder) -> None:
    counts = {"in": 45, "quarantined": {"no_answer": 5}}
    folder.save_manifest({"format": 1, "stages": {}, "counts": counts})
    assert "no_answer 5" in render(folder)[1].words


def test_stages_and_origin(folder: RunFolder) -> None:
    folder.save_manifest(
        {
            "format": 1,
            "stages": {
                "score": {"key": "k", "rows": 40, "seconds": 0.0},
                "train": {"key": "k", "rows": 120, "seconds": 80.0, "world_size": 2, "steps": 1},
            },
            "config": {"train": {"learning_rate": 2e-05}},
            "inputs": [{"path": "/data/pool.json", "bytes": 2048, "sha256": "abc"}],
            "versions": {"numpy": "2.4"},
            "models": {"clip": "def"},
        }
    )
    text, page = render(folder)
    table = section_of(text, "stages")
    assert table.index("train") < table.index("score")
    assert "train 1 optimizer step, 2 workers 120 1 min 20 s 1.50" in page.words
    assert "score 40 0.0 s n/a" in page.words
    assert "learning_rate: 2.0e-05" in text
    for word in ("/data/pool.json", "2.0 KiB", "abc", "numpy", "clip"):
        assert word in section_of(text, "origin")


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.0, 0.97, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-3.0, 7.0, ["\u22124", "\u22122", "0", "2", "4", "6", "8"]),
        (0.0, 12_000.0, ["0", "2,500", "5,000", "7,500", "10,000", "12,500"]),
        (0.0, 0.12, ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    axis = linear_axis("x", low, high)
    assert [tick.text for tick in axis.ticks] == texts
    assert axis.low <= low
    assert axis.high >= high
    assert [axis.ticks[0].at, axis.ticks[-1].at] == pytest.approx([0, 100])


def test_log_ticks() -> None:
    axis = log_axis("x", 10, 500)
    assert [tick.text for tick in axis.ticks] == ["10", "20", "50", "100", "200", "500"]
    middle = float(axis.at(np.array([np.sqrt(axis.low * axis.high)]))[0])
    assert middle == pytest.approx(50)
    assert len(log_axis("x", 1, 1e6).ticks) <= 7


def test_numbers_as_texts() -> None:
    assert [figure(v) for v in (0.41234, 1234.5, 0, None, float("nan"))] == [
        "0.412",
        "1,234",
        "0",
        "n/a",
        "n/a",
    ]
    assert figure(-0.5) == MINUS + "0.500"
    assert correlation(-0.256) == MINUS + "0.26"
    assert [count(v) for v in (1234567, None)] == ["1,234,567", "n/a"]
    assert [share(1, 4), share(1, 10_000), share(0, 5), share(0, 0)] == [
        "25.0 %",
        "0.010 %",
        "0.0 %",
        "n/a",
    ]
    assert [duration(v) for v in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    assert [size(v) for v in (10, 123_456_789)] == ["10 B", "117.7 MiB"]


def test_needs_neither_ray_nor_torch() -> None:
    code = "import sys, selfilter_ray.report; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
