"""The live page in a real browser, over a real service."""

import io
from itertools import pairwise

import numpy as np
import pytest
from browser import page_at, running_browser
from http_service import wait_until
from PIL import Image
from running_service import running
from service_run import make_pool_features

from selfilter_ray.service.http.keys import Key, hash_of
from selfilter_ray.service.messages import Arrival, Preview

HOSTILE = '"><img src=x onerror="document.title=\'taken\'"><script>document.title="taken"</script>'
LONG = "x" * 300


@pytest.fixture(scope="module")
def browser():
    with running_browser() as browser:
        yield browser


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (96, 72), colour).save(file, "JPEG")
    return file.getvalue()


def feed(service, count=40, start=0):
    """Decisions of all kinds; ids and texts are hostile, most have pictures, two are copies."""
    features = make_pool_features(count, start)
    features[-2:] = features[-3]
    difficulty = np.random.default_rng(start).normal(size=count)
    difficulty[-3:] = 9.0
    arrivals = [
        Arrival(
            f"{HOSTILE}{start}-{number}" if number % 2 else f"{LONG}{start}-{number}",
            b"%016d" % (start + number),
            float(difficulty[number]),
            features[number],
            Preview(f"{HOSTILE} {LONG} {number}", picture("red") if number % 3 else b""),
        )
        for number in range(count)
    ]
    return service.run(service.local.admit(arrivals))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    online = {"rate": 0.5, "near_duplicate": 0.99}
    previews = {"pixels": 96, "rejected": 100}
    with running(tmp_path_factory.mktemp("page"), online=online, previews=previews) as parts:
        decisions = feed(parts[1])
        assert {one.reason for one in decisions} == {"admitted", "too_easy", "near_duplicate"}
        yield *parts, decisions


@pytest.fixture
def page(browser, service):
    with page_at(browser, service[0]) as page:
        page.wait_for_selector("#rejected .card")
        yield page
        assert page.complaints == []


def test_its_numbers_are_those_of_the_service(page, service):
    decisions = service[3]
    admitted = sum(one.admitted for one in decisions)
    assert f"{admitted} of 40 samples admitted" in page.inner_text("#summary")
    keys = page.inner_text("#keys")
    assert "40" in keys and str(admitted) in keys
    assert page.inner_text("#status") == "live"
    names, values = (page.locator(f"#pairs {one}").all_inner_texts() for one in ("dt", "dd"))
    pairs = dict(zip(names, values, strict=True))
    reasons = [one.reason for one in decisions]
    assert pairs["Too easy"] == str(reasons.count("too_easy"))
    assert pairs["Near duplicates"] == str(reasons.count("near_duplicate"))
    assert "writer" in page.inner_text("#parts") and "ready" in page.inner_text("#parts")


def test_every_chart_is_drawn_named_and_has_its_numbers_as_a_table(page, service):
    for name in ("pace", "threshold", "difficulty", "similarity"):
        chart = page.locator(f"#{name} svg")
        assert chart.get_attribute("role") == "img" and chart.get_attribute("aria-label")
    assert page.locator("#difficulty .bar.admitted").count() > 3
    assert page.locator("#similarity .bar.rejected").count() > 0
    figure = page.locator("figure", has=page.locator("#difficulty"))
    assert figure.locator("table").count() == 0
    figure.locator("summary").click()
    figure.locator("table").wait_for()
    cells = figure.locator("tbody tr").all_inner_texts()
    counts = [[int(cell) for cell in row.split("\t")[2:]] for row in cells]
    admitted = sum(one.admitted for one in service[3])
    assert [sum(column) for column in zip(*counts, strict=True)] == [admitted, 40 - admitted]


def test_the_newest_samples_come_first_with_pictures_and_the_neighbour_that_rejected_them(
    page, service
):
    decisions = service[3]
    for list, wanted in (("admitted", True), ("rejected", False)):
        shown = page.locator(f"#{list} .card")
        newest = [one for one in reversed(decisions) if one.admitted is wanted][:12]
        sequences = [shown.nth(n).get_attribute("data-sequence") for n in range(shown.count())]
        assert sequences == [str(one.sequence) for one in newest]
    copies = page.locator("#rejected .card", has_text="repeats a kept sample")
    assert copies.count() == 2
    near = copies.first.locator(".near")
    assert "1.000" in near.inner_text() and f"{HOSTILE}0-37" in near.inner_text()
    page.locator("#rejected > .card > .picture img").nth(6).wait_for()
    sizes = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert set(sizes) == {96}


def test_hostile_ids_and_texts_are_only_text(page):
    assert page.title() == "Online selection"
    assert page.locator("img[src='x'], main script").count() == 0
    assert HOSTILE in page.inner_text("#admitted")


def test_new_decisions_appear_by_themselves_and_old_cards_stay(browser, tmp_path):
    with (
        running(tmp_path, online={"rate": 0.5}) as (url, service, _),
        page_at(browser, url) as page,
    ):
        page.wait_for_selector("#content:not([hidden])")
        assert "No sample has been decided on yet" in page.inner_text("#summary")
        assert page.locator("#admitted .empty").count() == 1
        feed(service)
        page.clock.fast_forward(2500)
        page.wait_for_selector("#admitted .card")
        page.evaluate("document.querySelector('#admitted .card').dataset.mark = 'kept'")
        feed(service, 4, start=100)
        page.clock.fast_forward(2500)
        page.locator("#summary", has_text="of 44").wait_for()
        assert page.locator("#admitted [data-mark=kept]").count() == 1
        assert page.complaints == []


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_nothing_is_wider_than_the_screen(browser, service, width):
    with page_at(browser, service[0], width) as page:
        page.wait_for_selector("#rejected .card")
        for summary in page.locator("figure summary").all():
            summary.click()
        page.locator("#pace-table table").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.complaints == []


CONTRAST = """
() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const leaves = [...document.querySelectorAll('body *')].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some((node) =>
      node.nodeType === 3 && node.textContent.trim()));
  return leaves.map((element) => {
    const style = getComputedStyle(element);
    const colour = parse(element instanceof SVGElement ? style.fill : style.color);
    return [element.className.baseVal ?? element.className, ratio(colour, ground(element))];
  });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser, service, scheme):
    with page_at(browser, service[0], color_scheme=scheme) as page:
        page.wait_for_selector("#rejected .card")
        ratios = page.evaluate(CONTRAST)
        assert len(ratios) > 100
        assert [found for found in ratios if found[1] < 4.5] == []


def test_headings_go_down_by_one_and_every_field_has_a_label(page):
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].filter((one) => one.checkVisibility())"
        ".map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    unnamed = "[...document.querySelectorAll('input')].filter((one) => !one.labels.length).length"
    assert page.evaluate(unnamed) == 0


def test_whoever_wants_no_motion_gets_none(browser, service):
    for motion, moving in (("reduce", False), ("no-preference", True)):
        with page_at(browser, service[0], reduced_motion=motion) as page:
            page.wait_for_selector("[data-state=live]")
            assert bool(page.evaluate("document.getAnimations().length")) is moving


def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEYS", Key("one", "data", hash_of("right")).line())
    options = {"keys": {"environment": "TEST_KEYS"}, "previews": {"pixels": 96}}
    with running(tmp_path, online={"rate": 0.5}, **options) as (url, service, _):
        feed(service)
        with page_at(browser, url, 360) as page:
            page.wait_for_selector("#ask:not([hidden])")
            assert page.locator("#content").is_hidden()
            page.fill("#key", "wrong")
            page.click("#ask button")
            page.wait_for_selector("#ask-error:not(:empty)")
            assert page.evaluate("sessionStorage.length") == 0
            page.fill("#key", "right")
            page.keyboard.press("Enter")
            page.wait_for_selector("#admitted .card img")
            assert page.locator("#ask").is_hidden()
            page.reload()
            page.wait_for_selector("#admitted .card img")
            kept = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")
            assert kept == [1, 0, ""]
            # The browser itself says so of every 401.
            others = [said for said in page.complaints if "401 (Unauthorized)" not in said]
            assert others == []


def test_a_service_that_goes_away_is_said_and_its_return_too(browser, service):
    url, _, gate, _ = service
    with page_at(browser, "about:blank") as page:
        page.clock.install()
        page.goto(url)
        page.wait_for_selector("[data-state=live]")
        gate.away = True
        page.clock.fast_forward(2500)
        page.wait_for_selector("#status[data-state=away]")
        assert "asking again in" in page.inner_text("#status")
        assert page.locator("#rejected .card").count() == 12
        gate.away = False
        page.clock.fast_forward(4500)
        page.wait_for_selector("#status[data-state=live]")


def test_a_hidden_page_asks_nothing(browser, service):
    url, _, gate, _ = service
    with page_at(browser, "about:blank") as page:
        page.clock.install()
        page.goto(url)
        page.wait_for_selector("[data-state=live]")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, writable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        page.wait_for_load_state("networkidle")  # thumbnails that were asked for before
        gate.requests.clear()
        page.clock.run_for(60_000)
        assert gate.requests == []
        page.evaluate(
            "document.hidden = false; document.dispatchEvent(new Event('visibilitychange'))"
        )
        wait_until(lambda: "/v1/stats" in gate.requests)


def test_nothing_comes_from_elsewhere(browser, service):
    url = service[0]
    with page_at(browser, "about:blank") as page:
        addresses = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(url)
        page.wait_for_selector("#rejected .card")
        assert addresses
        assert all(one.startswith((url, f"blob:{url}", "data:")) for one in addresses)
