"""From the operator's variables to the model of a stack that templates read."""
