"""Lets the tests of this folder import ``training_run``, the small run that several of them look at."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "stages"))
