"""The entry point: nginx, its certificate, and what it serves."""
