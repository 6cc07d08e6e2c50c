"""What a build says of itself: counts and examples, the data card, single documents' stories, estimates."""
