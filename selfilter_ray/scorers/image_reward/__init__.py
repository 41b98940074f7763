"""ImageReward (arXiv 2304.05977): how well a picture goes with a text, by a reward model."""
