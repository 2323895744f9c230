"""A deploy as a whole: its state, what verification found, what a failed one may undo."""
