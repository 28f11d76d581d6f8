"""A sweep's runs as tasks of Ray's, by Hydra's own plugin; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.training.test_launch import MORE, ROOT, SMALL

pytest.importorskip("hydra_plugins.hydra_ray_launcher")


@pytest.mark.slow
def test_a_sweep_of_ray_s_tasks_ends_with_its_leaderboard(data, tmp_path):
    words = [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *MORE]
    sweep = ["-m", "optimizer.lr=1e-3,-1", f"hydra.sweep.dir={tmp_path}/jobs", "hydra/launcher=ray",
             "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"]  # fmt: skip
    line = [sys.executable, str(ROOT / "scripts/train.py"), *words, *sweep]
    own = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(line, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    jobs = {row["job"]: row for row in json.loads((tmp_path / "jobs/leaderboard.json").read_text())["jobs"]}
    assert [jobs[number]["status"].partition(":")[0] for number in "01"] == ["finished", "failed"]
