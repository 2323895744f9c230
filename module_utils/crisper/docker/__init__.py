"""The Docker client: containers of a stack, one-off containers, why one is not healthy."""
