"""The corpus: raw sources -> clean, deduplicated, mixed documents, with a reason and a count for every dropped one."""
