"""Checks of how a playbook is called and connects; they run on the controller alone."""
