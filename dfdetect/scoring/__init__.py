"""Turn the logits of crops into the probabilities, verdicts and warnings of videos."""
