"""Searches: ``hydra/sweeper=optuna`` proposes the values of a sweep's jobs and ends those that fall behind."""
