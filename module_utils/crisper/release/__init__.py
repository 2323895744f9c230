"""Releases on a server: store, manifest, retention, and whether one can be rolled back to."""
