"""What each layer of a decoder turns its heads by, and how far it looks: tables made once, read at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.rotary import frequencies_at, rope_of, rotary_frequencies
from lit_llm.errors import UserError


class Ropes:
    """Tables of turns for ``positions`` places, complex, (positions, head_dim / 2); what is not turned is times 1.

    Where frequencies depend on how long a row is (longrope) there are two, for rows up to ``original`` tokens and for
    longer ones.
    """

    def __init__(self, config: BackboneConfig, positions: int, wide: torch.dtype, device: torch.device) -> None:
        self.windows = list(dict.fromkeys(map(config.window_of, range(config.num_layers))))
        self._windows = [config.window_of(layer) for layer in range(config.num_layers)]
        kinds = [(config.has_window_rope(n) if config.rotates(n) else None) for n in range(config.num_layers)]
        self._kinds = kinds
        self.by_length, self.original = False, 0
        self._tables: dict[bool, Tensor] = {}
        self._long: dict[bool, Tensor] = {}
        for windowed in {kind for kind in kinds if kind is not None}:
            scaling = rope_of(config, windowed)[1]
            if scaling is not None and scaling.kind == "dynamic" and positions > config.max_positions:
                raise UserError(
                    f"{positions} tokens: with dynamic positions a row of generation may be as long as the context, "
                    f"{config.max_positions} tokens"
                )
            magnitude = 1.0 if scaling is None else scaling.magnitude
            frequencies = rotary_frequencies(config, windowed)
            self._tables[windowed] = _table(config, positions, frequencies, magnitude, wide, device)
            if scaling is not None and scaling.kind == "longrope" and positions > scaling.original_max_positions:
                self.by_length, self.original = True, scaling.original_max_positions
                frequencies = frequencies_at(config, torch.tensor([positions]), windowed)
                self._long[windowed] = _table(config, positions, frequencies, magnitude, wide, device)

    def __len__(self) -> int:
        """Places."""
        return max((len(table) for table in self._tables.values()), default=0)

    def at(self, places: Tensor, lengths: Tensor | None) -> dict[bool, Tensor]:
        """The turns (N, 1, head_dim / 2) at ``places`` (N,), of each kind of layer. ``lengths`` (N,): of their rows,
        wanted where ``by_length``."""
        found = {kind: table[places][:, None] for kind, table in self._tables.items()}
        if lengths is not None and self._long:
            beyond = (lengths > self.original)[:, None, None]
            for kind, table in self._long.items():
                found[kind] = torch.where(beyond, table[places][:, None], found[kind])
        return found

    def of(self, layer: int, tables: dict[bool, Tensor]) -> tuple[int | None, Tensor | None]:
        """A layer's window, and its turns of ``at``; None where it turns nothing."""
        kind = self._kinds[layer]
        return self._windows[layer], None if kind is None else tables[kind]


def _table(
    config: BackboneConfig,
    positions: int,
    frequencies: Tensor,
    magnitude: float,
    wide: torch.dtype,
    device: torch.device,
) -> Tensor:
    angles = torch.arange(positions)[:, None].float() * frequencies  # in float32, as the plain forward has them
    turns = torch.polar(torch.full_like(angles, magnitude), angles)
    rest = (config.head_dim - config.rotary_dim) // 2
    if rest:
        turns = torch.cat([turns, torch.ones(positions, rest, dtype=turns.dtype)], dim=1)
    return turns.to(torch.complex128 if wide == torch.float64 else torch.complex64).to(device)
