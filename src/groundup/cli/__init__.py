"""The front door. `app.py` names the verbs and imports nothing heavy; the other modules do what they say."""

from groundup.cli.app import main

__all__ = ["main"]
