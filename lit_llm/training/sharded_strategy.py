"""The strategy of a run whose model is spread over processes: its mesh, and its checkpoints as folders of shards."""

from __future__ import annotations

from lit_llm.checkpointing.sharded_checkpoints import ShardedCheckpoints
from lit_llm.runtime.sharded_strategy import ShardedStrategy


class CheckpointedShardedStrategy(ShardedCheckpoints, ShardedStrategy):
    """Arguments as ``ShardedStrategy``."""
