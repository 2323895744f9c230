"""The task ledger: what a deploy did to traffic and tasks."""
