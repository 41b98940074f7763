"""Stage 1 of Self-Filter: the target VLM and a score net learn each sample's difficulty."""

from selfilter_ray.stage1.loss import weighted_loss
from selfilter_ray.stage1.score_net import ScoreNet

__all__ = ["ScoreNet", "weighted_loss"]
