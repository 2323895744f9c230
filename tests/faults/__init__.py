"""The matrix of faults and phases: a driver that hurts a deployed stack and counts from outside."""
