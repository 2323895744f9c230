"""Run the probes inside a container and read their answers."""
