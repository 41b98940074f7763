"""The score in a judge's answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfilter_ray.scorers.judge.parse import parse_score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("8", 8.0),
        ("8.5", 8.5),
        ("8,5", 8.5),
        ("8/10", 8.0),
        ("8.5 / 10.0", 8.5),
        ("8 out of 10", 8.0),
        ("8 of 10 points.", 8.0),
        ("Score: 8", 8.0),
        ("**Score:** 8/10", 8.0),
        ("The overall quality score is 7.25", 7.25),
        ("My rating = 9", 9.0),
        ("**8**", 8.0),
        ("[[8]]", 8.0),
        ("`8`", 8.0),
        ("# 8", 8.0),
        ("8.", 8.0),
        ("+8", 8.0),
        ("10", 10.0),
        ("0", 0.0),
        ("007", 7.0),
        ("\n \n\t 8 \nclear and correct, 3 errors", 8.0),
        ("8\r\nclear", 8.0),
        ("8 - clear and correct", 8.0),
        ("8: clear", 8.0),
        ("8 \u2014 clear", 8.0),
        ("\uff18\uff0f\uff11\uff10", 8.0),
        ("Score\uff1a\uff18\uff0e\uff15", 8.5),
        ("<think>perhaps 3\nor 4</think>\n\n8", 8.0),
    ],
)
def test_a_score_is_read(text, score):
    assert parse_score(text, 10.0) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "good\n8",
        "eight",
        "NaN",
        "inf",
        "1e1",
        "-1",
        "\u22121",
        "- 8",
        "11",
        "10.1",
        "999",
        "1000000000",
        "1" * 100_000,
        "7 8",
        "7, 8",
        "7-8",
        "7 to 8",
        "7/8",
        "8/100",
        "4/5",
        "1,000",
        "8.5.1",
        "7*8",
        "1*0",
        "1_0",
        "1\u2070",
        "\u2467",
        "\u0668",
        "80%",
        "3 cats are in the picture",
        "Answer: 3",
        "8 - but 7 for style",
        "<think>8",
        "8<br>",
    ],
)
def test_what_holds_no_single_score_is_refused(text):
    assert parse_score(text, 10.0) is None


def test_the_scale_is_the_dimensions():
    assert parse_score("4.5/5", 5.0) == 4.5
    assert parse_score("8", 5.0) is None
    assert parse_score("4/10", 5.0) is None


@given(st.text() | st.text("0123456789.,/-+ :*\n\uff11of ScoreT<think>/"))
def test_any_text_gives_none_or_a_score_on_the_scale(text):
    score = parse_score(text, 5.0)
    assert score is None or 0.0 <= score <= 5.0


@given(st.floats(0, 10), st.sampled_from(["{}", "Score: {}", "**{}**", "{}/10", "\n{}\nwhy 3"]))
def test_every_number_on_the_scale_is_read_back(number, shape):
    assert parse_score(shape.format(f"{number:.3f}"), 10.0) == float(f"{number:.3f}")
