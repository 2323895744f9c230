"""The harness and the stubs use the same code for a host."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "stubs/module_utils"))
