"""The table of an evaluation, one row a sample.

``answer_tokens`` are the supervised tokens inside ``max_length``; ``complete`` is whether these are
all of the sample's answers, or ``max_length`` cut some away. ``token_loss`` is the mean over them,
in nats. ``right`` is the share of them that greedy decoding would choose, given the reference
before them. ``exact`` is whether greedy decoding would say the reference, its end mark included:
each answer of a conversation after the reference of the others. It is null where an answer was cut.
The columns ``blind_...`` are the same without pictures, null where that was not asked for.

All are null in a row whose ``status`` is neither ``ok`` nor ``text_only``: there ``detail`` says
why. ``no_answer``: ``max_length`` leaves no answer token.
"""

from __future__ import annotations

import pyarrow as pa

NO_ANSWER = "no_answer"
SEEING, BLIND = "", "blind_"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("question_type", pa.string()),
        ("answer_tokens", pa.int32()),
        ("complete", pa.bool_()),
        *(
            (prefix + name, kind)
            for prefix in (SEEING, BLIND)
            for name, kind in (
                ("token_loss", pa.float64()),
                ("right", pa.float64()),
                ("exact", pa.bool_()),
            )
        ),
        ("status", pa.string()),
        ("detail", pa.string()),
    ]
)
