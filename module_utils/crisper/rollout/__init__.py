"""Replace the containers of a stack: the plan, its phases, the workers."""
