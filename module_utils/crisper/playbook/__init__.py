"""How a playbook is called and connects; runs on the controller alone."""
