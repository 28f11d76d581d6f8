"""Tests hold on a busy machine: on one thread (on two busy cores many make small tensors 10 times slower), and with no
limit of time for an example.

They hold in any order: each begins with the same random numbers, and hypothesis draws the same examples every time.
``--hypothesis-profile=exploring`` draws others.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

os.environ.pop("COLUMNS", None)  # pytest's workers have one: lines would be broken at it

import gc
import random
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.chain_data import write_data

torch.set_num_threads(1)
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("busy machine", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("busy machine")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files for every stage."""
    folder: Path = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def disk_unwaited() -> Generator[None, None, None]:
    """A run hands about 60 files to the disk, 5 milliseconds each, and no test cuts the power: only processes that are
    started, not forked, wait for it. What cannot be synced is an error all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.fstat(file if isinstance(file, int) else file.fileno()))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting imports and makes stays to the end: looking through it for garbage, then and later, took a tenth
    of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no GPU")
    random.seed(0)  # whatever ran before in this process
    np.random.seed(0)
    torch.manual_seed(0)
