"""The measured table: its columns, and all shards of a folder as one.

One row a sample: ``answer_tokens`` n, the supervised tokens inside ``max_length``; ``loss_sum`` S;
``loss`` = S / n; ``loss_no_image`` L(a|q) and ``loss_no_question`` L(a|v), over the same answer
tokens; the means ``el2n``, ``sum_p2``, ``p_y`` and ``margin``; ``grand``. The statistics are null
where ``answer_tokens`` is 0, where the settings leave them out, and in a row whose ``status`` is
neither ``ok`` nor ``text_only``: there ``detail`` says why.

Shapes: N samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfilter_ray.errors import ArtifactError
from selfilter_ray.features.shards import read_shards, shard_files

STATISTICS = (
    "loss_sum",
    "loss",
    "loss_no_image",
    "loss_no_question",
    "el2n",
    "sum_p2",
    "p_y",
    "margin",
    "grand",
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("answer_tokens", pa.int32()),
        *((name, pa.float64()) for name in STATISTICS),
        ("status", pa.string()),
        ("detail", pa.string()),
    ]
)
LOSS_NOT_FINITE = "loss_not_finite"  # a status of its own: of the model, not of the record


def load_measured(folder: Path, ids: np.ndarray | None = None) -> pa.Table:
    """The rows of all shards, sorted by id; or those of the given ids, in their order.

    Raises:
        ArtifactError: when shards are missing or damaged, or lack an id.
    """
    table = read_shards(shard_files(folder, "score"), SCHEMA.names)
    if ids is None:
        return table.take(pc.sort_indices(table["id"])).combine_chunks()
    place = pc.index_in(pa.array(ids, pa.string()), value_set=table["id"].combine_chunks())
    if place.null_count:
        raise ArtifactError(
            f"{folder} lacks {place.null_count} of {len(ids)} samples: remove it and run again."
        )
    return table.take(place).combine_chunks()
