"""Records without their pictures: what a model learns from them it has from the words alone."""

from __future__ import annotations

import pyarrow as pa

from selfilter_ray.samples.record import IMAGE_TOKEN


def without_pictures(samples: pa.Table) -> pa.Table:
    """The same samples, text only.

    Args:
        samples: with the columns ``turns`` and ``images``.
    """
    turns = [
        [{**turn, "text": turn["text"].replace(IMAGE_TOKEN, "").strip()} for turn in sample]
        for sample in samples["turns"].to_pylist()
    ]
    nothing: list[list[str]] = [[]] * samples.num_rows
    for name, values in (("turns", turns), ("images", nothing)):
        column = samples.schema.get_field_index(name)
        field = samples.schema.field(name)
        samples = samples.set_column(column, field, pa.array(values, field.type))
    return samples
