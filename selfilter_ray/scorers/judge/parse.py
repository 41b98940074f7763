"""The score in a judge's answer: the first line, if it holds one number on the scale.

A line that could be read in two ways holds no score: a wrong score is worse than none.
"""

from __future__ import annotations

import re

LONGEST_LINE = 500
# What reasoning models write before their answer.
THINKING = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
# Markdown and brackets become spaces, so that no two numbers grow together; full-width characters
# become plain ones.
PLAIN = {ord(mark): " " for mark in "*_`#[]()\"'"}
PLAIN |= {0xFF01 + number: chr(0x21 + number) for number in range(94)}
ABOUT = "quality|helpfulness|accuracy"
NUMBER = r"[0-9]{1,3}(?:\.[0-9]{1,20}|,[0-9]{1,2})?"
LINE = re.compile(
    rf"(?:(?:(?:my|the|overall|final|{ABOUT}) ){{0,3}}(?:score|rating|{ABOUT}) ?(?:[:=]|is) ?)?"
    rf"\+?(?P<score>{NUMBER})"
    r"(?: ?(?:/|out of|of) ?(?P<top>[0-9]{1,3}(?:\.0)?))?"
    r"(?: ?(?:points?|stars?))?"
    r"(?: ?\.|(?: [-\u2013\u2014]+| ?[.,:;]) \D*)?"  # a reason on the same line, without digits
)


def parse_score(text: str, top: float) -> float | None:
    """The score, or None when the first line that is not blank does not hold exactly one.

    Read are ``8``, ``8.5``, ``8,5``, ``8/10``, ``8 out of 10``, ``Score: 8``, ``**8**``,
    ``8 - a clear answer``, also in full-width characters, also after a closed ``<think>`` block.
    Refused are two numbers in a line (``7 8``, ``7-8``), another scale (``4/5`` where the top is
    10), negative numbers, NaN, words, and what lies off the scale.

    Args:
        text: a judge's whole answer, any text.
        top: the best score; the worst is 0.
    """
    text = THINKING.sub("", text, count=1) if THINKING.match(text) else text
    line = next((line for line in text.splitlines() if line.strip()), "")
    if len(line) > LONGEST_LINE:
        return None
    match = LINE.fullmatch(" ".join(line.translate(PLAIN).lower().split()))
    if match is None or (match["top"] is not None and float(match["top"]) != top):
        return None
    score = float(match["score"].replace(",", "."))
    return score if 0.0 <= score <= top else None
