"""The judge against a real server that answers well, badly, slowly, or not at all."""

import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from judge_server import Reply, error, says, serving
from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import Sample, Turn
from selfilter_ray.scorers.judge.answers import FILE, read_answers
from selfilter_ray.scorers.judge.questions import list_questions
from selfilter_ray.scorers.judge.run import judge
from selfilter_ray.scorers.judge.settings import JudgeConfig

LIMITS = LimitsConfig()
KEY = "sk-test-4f9a27c1d0"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_TEST_KEY", KEY)


def config(server, **more):
    usual = {"model": "judge", "api_key_env": "JUDGE_TEST_KEY", "backoff_seconds": 0.01}
    return JudgeConfig(**{"base_url": server.url, **usual, "max_retries": 2, **more})


def sample(number, images=()):
    turns = (Turn("user", f"question {number}?"), Turn("assistant", f"answer {number}."))
    return Sample(f"id{number:03}", "s", turns, tuple(images), "f#0", "{}")


def pool(count):
    return table_of([sample(number) for number in range(count)])


def number_in(asked):
    """Which sample a request is about."""
    return int(re.search(r"question (\d+)\?", asked.text)[1])


def numbers(server, since=0):
    return [number_in(asked) for asked in server.asked[since:]]


def usually(special):
    """A score of 8, but for samples whose number is in ``special``."""
    return lambda asked: special.get(number_in(asked), says("8\nclear"))


def rows(table):
    return {row["id"]: row for row in table.to_pylist()}


def test_every_sample_is_asked_once_and_scored_by_id(tmp_path):
    done = []
    with serving(lambda asked: says(f"{number_in(asked) % 10}.5\nwhy")) as server:
        table = judge(pool(10), config(server), LIMITS, tmp_path, done.append)
        again = judge(pool(10), config(server), LIMITS, tmp_path)
    assert table.schema.types == [pa.string(), pa.float32(), pa.bool_(), pa.string()]
    assert table.column_names == ["id", "judge_quality", "parsed", "detail"]
    assert table["id"].to_pylist() == [f"id{number:03}" for number in range(10)]
    assert table["judge_quality"].to_pylist() == [number + 0.5 for number in range(10)]
    assert table["parsed"].to_pylist() == [True] * 10
    assert sorted(numbers(server)) == list(range(10))
    assert sum(done) == 10
    assert again.equals(table)


def test_a_request_is_as_configured(tmp_path):
    with serving(lambda _: says("4")) as server:
        settings = config(
            server,
            dimension="accuracy",
            seed=7,
            token_field="max_completion_tokens",
            max_tokens=9,
            extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        )
        judge([sample(1)], settings, LIMITS, tmp_path)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    sent = {name: value for name, value in asked.body.items() if name != "messages"}
    assert sent == {
        "model": "judge",
        "temperature": 0.0,
        "seed": 7,
        "max_completion_tokens": 9,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_a_picture_goes_with_its_question(tmp_path):
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.png")
    with serving(lambda _: says("8")) as server:
        settings = config(server, image_pixels=10_000)
        judge([sample(1, [str(tmp_path / "a.png")])], settings, LIMITS, tmp_path / "judge")
    shown, text = server.asked[0].body["messages"][1]["content"]
    assert shown["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "one picture, shown above" in text["text"]


def test_a_server_without_a_key_is_not_sent_another_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda _: says("8")) as server:
        judge([sample(1)], config(server, api_key_env=None), LIMITS, tmp_path)
    assert KEY not in str(server.asked[0].headers)


def test_never_more_at_once_than_allowed(tmp_path):
    with serving(lambda _: says("8", seconds=0.04)) as server:
        judge(pool(16), config(server, concurrency=3), LIMITS, tmp_path)
    assert server.most_at_once == 3


# The first request of a process is slow, so times are counted from the second.


def test_requests_a_minute_are_spread_without_a_burst(tmp_path):
    with serving(lambda _: says("8")) as server:
        judge(pool(8), config(server, requests_per_minute=600), LIMITS, tmp_path)
    assert server.asked[-1].time - server.asked[1].time > 6 * 0.1 * 0.8


def test_tokens_a_minute_are_kept(tmp_path):
    with serving(lambda _: says("8")) as server:
        tokens = list_questions(pool(1), config(server), LIMITS)[0].tokens + 64
        settings = config(server, tokens_per_minute=tokens * 10 * 60)  # ten requests a second
        judge(pool(18), settings, LIMITS, tmp_path)
    # A second's worth passes at once.
    assert server.asked[-1].time - server.asked[1].time > (17 - 10) * 0.1 * 0.8


@pytest.mark.parametrize(
    "bad",
    [
        error(500, "broken"),
        error(503, "loading"),
        error(409, "busy"),
        error(408, "slow"),
        error(429, "too many"),
        Reply(b"<html>a gate</html>"),
        Reply(b'{"choices": [{"mess', headers={"content-type": "application/json"}),
        Reply({"choices": []}),
        Reply({"choices": None}),
        Reply([1, 2]),
        Reply(b"[" * 100_000, headers={"content-type": "application/json"}),
        says("8", seconds=1.6),
    ],
    ids=lambda bad: f"{bad.status} {bad.body!r:.30}",
)
def test_what_may_pass_is_tried_again(tmp_path, bad):
    with serving(lambda asked: bad if asked.number == 0 else says("8")) as server:
        table = judge([sample(1)], config(server, timeout_seconds=1), LIMITS, tmp_path)
    assert len(server.asked) == 2
    assert table["judge_quality"].to_pylist() == [8.0]


def test_tries_end_and_the_sample_is_listed_without_a_score(tmp_path):
    with serving(usually({3: error(500, "broken on this")})) as server:
        table = judge(pool(6), config(server), LIMITS, tmp_path)
        assert numbers(server).count(3) == 3
        assert rows(table)["id003"]["judge_quality"] is None
        assert not rows(table)["id003"]["parsed"]
        assert "broken on this" in rows(table)["id003"]["detail"]
        assert sum(table["parsed"].to_pylist()) == 5
        server.behave = usually({})
        before = len(server.asked)
        mended = judge(pool(6), config(server), LIMITS, tmp_path)
    assert numbers(server, before) == [3]
    assert mended["parsed"].to_pylist() == [True] * 6


def test_retry_after_holds_all_requests_back(tmp_path):
    def behave(asked):
        if asked.number == 1:
            return error(429, "slow down", {"retry-after": "1"})
        return says("8", seconds=0.2)

    with serving(behave) as server:
        table = judge(pool(7), config(server, concurrency=2), LIMITS, tmp_path)
    assert table["parsed"].to_pylist() == [True] * 7
    limited = server.asked[1].time
    # one other may have been under way when the server said so
    late = [asked.time - limited for asked in server.asked[3:]]
    assert min(late) > 0.9


@pytest.mark.parametrize(
    ("status", "more", "remedy"),
    [
        (401, {}, "environment variable JUDGE_TEST_KEY"),
        (402, {}, "credit"),
        (429, {"code": "insufficient_quota"}, "credit"),
        (403, {}, "JUDGE_TEST_KEY may not use"),
        (404, {}, r"judge\.base_url.*/v1, or judge\.model"),
    ],
)
def test_what_no_sample_can_mend_stops_the_run_at_once(tmp_path, status, more, remedy):
    with (
        serving(lambda _: error(status, "no", **more)) as server,
        pytest.raises(ConfigError, match=remedy),
    ):
        judge(pool(20), config(server), LIMITS, tmp_path)
    assert len(server.asked) == 1


def test_a_key_that_is_taken_away_stops_the_run_and_keeps_the_answers(tmp_path):
    with serving(lambda asked: says("8") if asked.number < 6 else error(401, "gone")) as server:
        with pytest.raises(ConfigError, match="JUDGE_TEST_KEY"):
            judge(pool(40), config(server, concurrency=2), LIMITS, tmp_path)
        assert len(server.asked) <= 9
    assert len(read_answers(tmp_path)[0]) == 6


def test_settings_that_the_server_refuses_stop_the_run_after_three_samples(tmp_path):
    with (
        serving(lambda _: error(400, "max_tokens is not supported")) as server,
        pytest.raises(ConfigError, match=r"token_field.*max_tokens is not supported"),
    ):
        judge(pool(20), config(server), LIMITS, tmp_path)
    assert len(server.asked) == 3


def test_few_samples_all_refused_are_a_wrong_config_too(tmp_path):
    with (
        serving(lambda _: error(400, "no images here")) as server,
        pytest.raises(ConfigError, match="no images here"),
    ):
        judge(pool(2), config(server), LIMITS, tmp_path)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_a_sample_that_is_refused_is_listed_and_the_run_goes_on(tmp_path, status):
    first = list_questions(pool(12), JudgeConfig(base_url="http://a", model="judge"), LIMITS)
    # refused are a few that are asked late, and with 400 also the very first
    refused = {int(first[place].ids[0][2:]) for place in (7, 9)}
    refused |= {int(first[0].ids[0][2:])} if status == 400 else set()
    with serving(usually(dict.fromkeys(refused, error(status, "content filter")))) as server:
        table = judge(pool(12), config(server), LIMITS, tmp_path)
        again = judge(pool(12), config(server), LIMITS, tmp_path)
    assert len(server.asked) == 12 + len(refused)  # tried once a run
    for number in refused:
        row = rows(table)[f"id{number:03}"]
        assert (row["judge_quality"], row["parsed"]) == (None, False)
        assert "content filter" in row["detail"]
    assert sum(table["parsed"].to_pylist()) == 12 - len(refused)
    assert again.equals(table)


def test_a_redirect_is_not_followed(tmp_path):
    with serving(lambda _: says("8")) as other:
        to = {"location": other.url + "/chat/completions"}
        with (
            serving(lambda _: Reply({}, 307, to)) as server,
            pytest.raises(ConfigError, match="redirects"),
        ):
            judge(pool(3), config(server), LIMITS, tmp_path)
    assert other.asked == []


def test_no_server_at_all_is_one_clear_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    settings = JudgeConfig(
        base_url=f"http://127.0.0.1:{port}/v1", model="m", max_retries=1, backoff_seconds=0.01
    )
    with pytest.raises(ConfigError, match="does not answer"):
        judge(pool(20), settings, LIMITS, tmp_path)


def test_a_server_that_dies_ends_the_run_and_a_second_run_asks_the_rest(tmp_path):
    def dies(asked):
        return says("8") if asked.number < 10 else error(503, "gone")

    with serving(dies) as server:
        settings = config(server, concurrency=2, max_retries=0)
        with pytest.raises(ConfigError, match=r"does not answer.*stored answers are kept"):
            judge(pool(40), settings, LIMITS, tmp_path)
        assert len(server.asked) < 20
        server.behave = usually({})
        before = len(server.asked)
        table = judge(pool(40), settings, LIMITS, tmp_path)
    assert len(server.asked) - before == 30
    assert table["parsed"].to_pylist() == [True] * 40


def test_what_does_not_parse_gets_the_mean_of_what_does(tmp_path, caplog):
    special = {0: says("good"), 1: says(None, "length"), 2: says("4"), 3: error(400, "too long")}
    with serving(usually(special)) as server, caplog.at_level(logging.WARNING):
        table = rows(judge(pool(6), config(server), LIMITS, tmp_path))
    mean = (4 + 8 + 8) / 3
    assert math.isclose(table["id000"]["judge_quality"], mean, rel_tol=1e-6)
    assert math.isclose(table["id001"]["judge_quality"], mean, rel_tol=1e-6)
    assert table["id003"]["judge_quality"] is None
    assert [table[f"id00{number}"]["parsed"] for number in range(4)] == [False, False, True, False]
    assert "'good'" in table["id000"]["detail"]
    assert "finish reason length" in table["id001"]["detail"]
    assert "2 answers hold no score and count as the mean 6.667, 1 got no answer" in caplog.text


def test_no_score_at_all_is_wrong_data(tmp_path):
    with (
        serving(lambda _: says("I cannot rate this.")) as server,
        pytest.raises(DataError, match="none of the 3 samples"),
    ):
        judge(pool(3), config(server), LIMITS, tmp_path)
    assert len(read_answers(tmp_path)[0]) == 3


def test_a_broken_picture_costs_no_request_and_is_listed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with serving(usually({})) as server:
        samples = [sample(0), sample(1, [str(tmp_path / "a.png")])]
        table = rows(judge(samples, config(server), LIMITS, tmp_path / "judge"))
    assert numbers(server) == [0]
    assert table["id001"]["judge_quality"] is None
    assert "image_format" in table["id001"]["detail"]


def test_equal_requests_are_made_once(tmp_path):
    turns = sample(0).turns
    twins = [Sample(name, "s", turns, ("a.png",), "f#0", "{}") for name in ("b", "a")]
    with serving(usually({})) as server:
        table = judge(twins, config(server, with_image=False), LIMITS, tmp_path)
    assert len(server.asked) == 1
    assert table["id"].to_pylist() == ["a", "b"]
    assert table["judge_quality"].to_pylist() == [8.0, 8.0]


def test_another_prompt_or_model_asks_again_and_the_old_answers_stay(tmp_path):
    with serving(lambda _: says("4")) as server:
        judge(pool(3), config(server), LIMITS, tmp_path)
        judge(pool(3), config(server, dimension="accuracy"), LIMITS, tmp_path)
        judge(pool(3), config(server, model="other"), LIMITS, tmp_path)
        assert len(server.asked) == 9
        judge(pool(3), config(server), LIMITS, tmp_path)
        assert len(server.asked) == 9


def test_a_run_that_costs_too_much_is_refused_before_a_request(tmp_path):
    shown = []
    prices = {"input_per_million": 1000.0, "output_per_million": 1000.0}
    with serving(usually({})) as server:
        settings = config(server, prices=prices, max_cost=0.5)
        with pytest.raises(ConfigError, match="max_cost"):
            judge(pool(5), settings, LIMITS, tmp_path, announce=shown.append)
    assert server.asked == []
    assert shown[0].requests == 5


def test_a_missing_key_is_named_and_needed_only_to_ask(tmp_path, monkeypatch):
    with serving(usually({})) as server:
        judge(pool(2), config(server), LIMITS, tmp_path)
        monkeypatch.delenv("JUDGE_TEST_KEY")
        judge(pool(2), config(server), LIMITS, tmp_path)
        with pytest.raises(ConfigError, match="JUDGE_TEST_KEY is not set"):
            judge(pool(3), config(server), LIMITS, tmp_path)
    assert len(server.asked) == 2


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "selfilter_ray.scorers.judge.client", raising=False)
    monkeypatch.delitem(sys.modules, "selfilter_ray.scorers.judge.asking", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with (
        serving(usually({})) as server,
        pytest.raises(ConfigError, match=r"selfilter-ray\[judge\]"),
    ):
        judge(pool(1), config(server), LIMITS, tmp_path)


def test_the_key_is_nowhere_even_when_the_server_sends_it_back(tmp_path, caplog):
    def echo(asked):
        sent = asked.headers["authorization"]
        answers = {1: says(f"8\nyou sent {sent}"), 2: error(400, sent), 3: Reply(sent.encode())}
        return answers.get(number_in(asked), says("8"))

    with serving(echo) as server, caplog.at_level(logging.DEBUG):
        table = judge(pool(8), config(server), LIMITS, tmp_path)
        server.behave = lambda asked: error(401, asked.headers["authorization"])
        with pytest.raises(ConfigError) as caught:
            judge(pool(9), config(server), LIMITS, tmp_path)
    assert "Bearer ***" in rows(table)["id002"]["detail"]
    assert "Bearer ***" in rows(table)["id003"]["detail"]
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"you sent Bearer ***" in stored
    for text in (stored.decode(), caplog.text, str(table.to_pylist()), str(caught.value)):
        assert KEY not in text


CHILD = """
import json, logging, sys
from pathlib import Path
from test_judge import LIMITS, pool
from selfilter_ray.scorers.judge.run import judge
from selfilter_ray.scorers.judge.settings import JudgeConfig
logging.basicConfig(level=logging.DEBUG)
judge(pool(120), JudgeConfig(**json.loads(sys.argv[1])), LIMITS, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_without_asking_again(tmp_path, sent):
    with serving(lambda asked: says(f"{number_in(asked) % 10}\nwhy", seconds=0.03)) as server:
        settings = config(server, concurrency=4)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, settings.model_dump_json(), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(server.asked) < 24 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(sent)
        _, log = child.communicate(timeout=30)
        assert child.returncode == -sent, log
        stored = (tmp_path / FILE).read_bytes().splitlines()
        known = {id for line in stored for id in json.loads(line)["ids"]}
        assert 15 <= len(known) < 120
        time.sleep(0.1)  # requests of the dead child end
        before = len(server.asked)
        table = judge(pool(120), settings, LIMITS, tmp_path)
        later = {f"id{number:03}" for number in numbers(server, before)}
    assert KEY not in log
    assert len(server.asked) - before == 120 - len(known)
    assert later == {f"id{number:03}" for number in range(120)} - known
    assert table["judge_quality"].to_pylist() == [number % 10 for number in range(120)]
