"""What training on completions is held to: rows padded to one length, each token labelled by where it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.records import IGNORE


def completion_labels(input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Labels (B, T) of right-padded rows ``input_ids`` (B, T): position t predicts token t + 1 where that is a
    completion's token (end token included), else ``IGNORE``. From the lengths (B,), never from the padding's id.
    """
    following = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    inside = (following >= prompt_lengths[:, None]) & (following < lengths[:, None])
    return torch.where(inside, input_ids.roll(-1, dims=1), IGNORE)
