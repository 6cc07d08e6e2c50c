"""The decoder, its files (Hugging Face layout), generation, log-probabilities, scalar heads."""
