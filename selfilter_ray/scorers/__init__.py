"""Models that rate samples: one number a sample, beside or instead of the features."""
