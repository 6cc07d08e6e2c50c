"""Finding what stands more than once: whole documents, near copies, spans of words, the same said otherwise."""
