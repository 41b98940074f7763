"""Methods that keep the highest of a score: CLIP score, ImageReward, LLM judge.

CLIP score: cosine of image and text (arXiv 2104.08718). ImageReward: arXiv 2304.05977. Judge: the
quality of the answers from 0 to 10, as in Self-Filter's setting ``scores`` (arXiv 2402.12501). The
first two need an image; samples without a score rank last (ours).
"""

from __future__ import annotations

from collections.abc import Mapping

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.ranking import ranked, select_ranked
from selfilter_ray.select.settings import ClipScoreSettings, ImageRewardSettings, JudgeSettings

ScoreSettings = ClipScoreSettings | ImageRewardSettings | JudgeSettings

COLUMN: Mapping[str, str] = {
    "clip_score": "clip_score",
    "image_reward": "image_reward",
    "judge": "judge_quality",
}


def score_needs(settings: ScoreSettings) -> Needs:
    return Needs(columns_with_gaps=(COLUMN[settings.method],))


def select_score(pool: Pool, budget: int, seed: int, settings: ScoreSettings) -> Selection:
    """The ``budget`` samples of the highest score."""
    value_N = pool.columns[COLUMN[settings.method]]
    return select_ranked(pool, ranked(value_N), value_N, budget, seed)
