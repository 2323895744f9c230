"""Decisions about workers, queues and tasks, from what they answered; no I/O."""
