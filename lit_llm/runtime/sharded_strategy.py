"""Lightning's strategy for a model that is spread over processes, with a mesh that the configuration decides."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lit_llm.errors import UserError

Shard = Literal["full", "grad", "hybrid"]


class ShardedStrategy(ModelParallelStrategy):
    """Its ``device_mesh`` is (data_parallel, tensor_parallel), as Lightning's. What "auto" means there, tensor
    parallelism over all devices of a node, is nobody's wish: both numbers are given.

    Args:
        data_parallel: shares of the rows: processes that hold parts of each other's weights.
        tensor_parallel: processes, side by side, that compute each share together.
        shard: "full": weights are whole only while their layer is computed (ZeRO-3); "grad": from the forward pass to
            the end of the backward pass, gradients and the optimizer's state are shared out all the same (ZeRO-2);
            "hybrid": as "full" within each of ``replicas`` groups, which hold the same.
        replicas: of "hybrid": groups, as a rule the machines, over which gradients alone travel.
    """

    def __init__(
        self, data_parallel: int, tensor_parallel: int = 1, shard: Shard = "full", replicas: int | None = None
    ) -> None:
        super().__init__(data_parallel, tensor_parallel, save_distributed_checkpoint=False)
        if shard == "hybrid" and (replicas is None or replicas < 2 or data_parallel % replicas):
            raise UserError(
                f"trainer.shard=hybrid: repeats the model over machines; {replicas or 1} of them cannot share out "
                f"{data_parallel} processes evenly: give trainer.num_nodes=2 or more, or trainer.shard=full"
            )
        self.shard: Shard = shard
        self.replicas = replicas if shard == "hybrid" else None
        self._sizes = data_parallel, tensor_parallel
        self._hybrid: DeviceMesh | None = None

    def setup_environment(self) -> None:
        super().setup_environment()
        if self.replicas is not None:
            data, tensor = self._sizes
            sizes = (self.replicas, data // self.replicas, tensor)
            names = ("replicas", "shards", "tensor_parallel")
            self._hybrid = init_device_mesh(self.root_device.type, sizes, mesh_dim_names=names)

    @property
    def shard_mesh(self) -> DeviceMesh:
        """Over which weights are shared out: (shards,), or of "hybrid" (replicas, shards)."""
        return self.device_mesh["data_parallel"] if self._hybrid is None else self._hybrid["replicas", "shards"]

    @property
    def tensor_mesh(self) -> DeviceMesh:
        """(tensor_parallel,)"""
        return (self.device_mesh if self._hybrid is None else self._hybrid)["tensor_parallel"]
