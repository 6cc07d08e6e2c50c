"""What a run did, as one page: figures and the report that opens from disk."""
