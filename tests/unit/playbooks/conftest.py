"""The harness and the stubs use the same code for a host."""

import sys
from pathlib import Path

UTILS = "stubs/collections/ansible_collections/crisper/stubs/plugins/module_utils"
sys.path.insert(0, str(Path(__file__).resolve().parent / UTILS))
