"""Matrices whose rows lie in several processes are worked on whole, each by one process."""

import torch
import torch.distributed as dist

from lit_llm.optim.gradient_norm import scale, total_norm
from lit_llm.optim.whole_matrices import on_whole_matrices
from tests.processes import together


def orthogonal(matrices):
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    return left @ right


def shared_out(shapes, count):
    """Of ``count`` matrices of each shape: what the processes make of them together, and the norm of all."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo")
    lines = init_device_mesh("cpu", (dist.get_world_size(),))
    g, found, gradients, worked = torch.Generator().manual_seed(0), {}, [], []

    def work(matrices):
        worked.append(len(matrices))
        return orthogonal(matrices)

    for shape in shapes:
        whole = [torch.randn(*shape, generator=g) for _ in range(count)]
        like = [distribute_tensor(matrix, lines, [Shard(0)]) for matrix in whole]
        parts = on_whole_matrices(work, [each.to_local() for each in like], like)
        found[shape] = parts, [each.to_local().shape for each in like]
        gradients += like
    plain = torch.randn(5, generator=g)
    gradients += [plain, distribute_tensor(plain.clone(), lines, [Replicate()])]
    before = total_norm(gradients)
    scale(gradients, 0.5)
    return found, before, total_norm(gradients), worked


def test_two_processes_do_each_matrix_once():
    shapes, count = [(7, 3), (3, 7), (8, 8), (1, 4)], 5
    found = together(2, shared_out, shapes, count)
    g, squares = torch.Generator().manual_seed(0), 0.0
    for shape in shapes:
        whole = torch.stack([torch.randn(*shape, generator=g) for _ in range(count)])
        for number, wanted in enumerate(orthogonal(whole)):
            rows = [each[0][shape][0][number] for each in found]
            assert [row.shape for row in rows] == [each[0][shape][1][number] for each in found]
            torch.testing.assert_close(torch.cat(rows), wanted, rtol=0, atol=1e-5)
        squares += float(whole.square().sum())
    squares += 2 * float(torch.randn(5, generator=g).square().sum())
    for _, before, after, worked in found:
        assert abs(before - squares**0.5) < 1e-4 and abs(after - before / 2) < 1e-4
        assert sum(worked) in (2 * len(shapes), 3 * len(shapes))  # of five, not all
    assert sum(sum(each[3]) for each in found) == count * len(shapes)
