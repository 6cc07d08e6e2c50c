"""From documents to token ids: the tokenizer, the shards, and `batch(step)` as a pure function."""
