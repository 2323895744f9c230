"""Qdrant's own engine (qdrant-edge-py) behind the REST subset that qdrant-client uses."""

# The release whose REST API this follows; qdrant-client compares it with its own.
API_VERSION = "1.19.1"
