"""Jobs of Slurm: a run as one (``trainer.launcher=slurm``), a sweep as an array of them (``hydra/launcher=slurm``)."""
