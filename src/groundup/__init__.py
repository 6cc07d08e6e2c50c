"""groundup takes a language model through its whole life, from raw text to a release decision."""

__version__ = "0.1.0"
