"""Exam items that must not stand in the corpus: word for word, or told in other words."""
