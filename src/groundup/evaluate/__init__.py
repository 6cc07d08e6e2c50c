"""Measuring models: what they know, whether training went well, and whether the evidence is enough for a release."""
