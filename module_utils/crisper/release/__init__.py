"""Releases on a server: manifest, retention, and whether one can be rolled back to."""
