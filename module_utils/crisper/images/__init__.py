"""Images: build contexts, digests, registries, bills of materials."""
