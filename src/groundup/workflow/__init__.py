"""Running a recipe (`run.py`), and what it will take before it starts (`preflight.py`)."""
