"""What a finished Stage 1 says about its difficulties."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from selfilter_ray.features.shards import load_features
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.scoring import net_scores
from selfilter_ray.stage1.statistics import rank_correlation


def correlations(folder: RunFolder) -> dict[str, float | None]:
    """Spearman's rho of difficulty with the answer's length and with the sample's mean loss.

    A high one with the length says that the score net learned to tell long answers from short
    ones: ``loss_reduction: mean`` is the remedy. Over the samples that were trained on, M of N.
    """
    features = load_features(folder.features)
    difficulty_N = -net_scores(folder.score_net, features, folder.ratings)
    statistics = pq.read_table(folder.sample_statistics)
    trained = statistics["id"].to_numpy(zero_copy_only=False)
    difficulty_M = difficulty_N[np.searchsorted(features.ids, trained)]
    tokens_M = statistics["answer_tokens"].to_numpy().astype(float)
    loss_M = statistics["train_loss"].to_numpy(zero_copy_only=False).astype(float)
    return {
        "difficulty_answer_length": rank_correlation(difficulty_M, tokens_M),
        "difficulty_loss": rank_correlation(difficulty_M, loss_M),
    }
