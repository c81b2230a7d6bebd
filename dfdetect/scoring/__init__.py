"""From the logits of crops to the probabilities of tracks and videos: calibration, aggregation."""
