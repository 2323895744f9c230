"""The shop: orders, streams and background work."""
