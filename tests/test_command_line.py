"""What the user is told when Hydra stands between a mistake and its message."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lit_llm.command_line import _own
from lit_llm.errors import UserError


def test_the_message_inside_hydras_is_found(tmp_path):
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "lit_llm.rewards.learned.LearnedReward", "folder": str(tmp_path / "nowhere")})
    found = _own(caught.value)
    assert isinstance(found, UserError) and "nowhere" in str(found) and "\n" not in str(found)
    assert _own(ValueError("of somebody else")) is None
