"""Training: one engine (`engine.train`) and the objectives that go through it."""
