"""Makes our sweeper and our launcher known to Hydra, which takes such classes under the name ``hydra_plugins`` alone.

They are registered, not installed as a namespace package of that name: so they are there wherever this package is
imported from, and nothing of theirs is imported before a command asks for it.
"""

from __future__ import annotations

from hydra.core.plugins import Plugins

from lit_llm.training.cluster.launcher import SlurmLauncher
from lit_llm.training.search.sweeper import OptunaSweeper

NAMES = {"hydra_plugins.lit_llm.OptunaSweeper": OptunaSweeper, "hydra_plugins.lit_llm.SlurmLauncher": SlurmLauncher}


def register() -> None:
    """For ``hydra/sweeper=optuna`` and ``hydra/launcher=slurm`` in a program of one's own, before ``hydra.main``."""
    Plugins.instance().class_name_to_class.update(NAMES)
