"""Every trainable parameter is in one group, and only matrices decay."""

from torch import nn

from lit_llm.optim.parameter_groups import parameter_groups


class Net(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm(4)
        self.hidden = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.lm_head = nn.Linear(4, 10, bias=False)
        if tied:
            self.lm_head.weight = self.embedding.weight


def names(net: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    by_id = {id(parameter): name for name, parameter in net.named_parameters()}
    return [by_id[id(parameter)] for parameter in parameters]


def test_tied() -> None:
    net = Net(tied=True)
    groups = parameter_groups(net)
    assert names(net, groups.hidden) == ["hidden.weight"]
    assert names(net, groups.decayed) == []
    assert names(net, groups.undecayed) == ["embedding.weight", "norm.weight", "norm.bias", "hidden.bias"]


def test_an_untied_head_decays_but_is_no_hidden_matrix() -> None:
    net = Net(tied=False)
    groups = parameter_groups(net)
    assert names(net, groups.hidden) == ["hidden.weight"]
    assert names(net, groups.decayed) == ["lm_head.weight"]
