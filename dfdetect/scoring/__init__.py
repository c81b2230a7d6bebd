"""Scores: the calibrated logits of crops, aggregated to probabilities of tracks and videos."""
