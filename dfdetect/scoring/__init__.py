"""From the logits of crops to a person's score and the video's probability."""
