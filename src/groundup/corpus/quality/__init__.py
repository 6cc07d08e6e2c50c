"""Judging a text: its language, rules of thumb, trained models of quality, surprise and toxicity."""
