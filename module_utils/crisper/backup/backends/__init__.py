"""A file for each data service: its data into a stream, and back."""
