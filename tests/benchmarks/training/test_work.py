"""The training step learns, and the peers do the same work as the model here."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch
from benchmarks.contestants import Shape, find, here, random_batch
from benchmarks.matmuls import MatmulsAlone, Products
from benchmarks.training.step import TrainingStep
from benchmarks.training.work import PRESETS, Settings, goals

from lit_llm.errors import UserError
from lit_llm.runtime.arguments import parse

SMALL = Shape(hidden_size=32, layers=2, heads=2, vocab_size=65, length=16, batch=2, qk_norm=False)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_step_learns(precision):
    torch.manual_seed(0)
    step = TrainingStep(here(SMALL), random_batch(SMALL, torch.device("cpu")), precision, compiled=False)
    for group in step.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = [float(step.step()) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert step.units == 32


def as_litgpt(weights, layers):
    """This project's weights under litgpt's names: queries, keys and values are one matrix there."""
    names = {
        "backbone.embed_tokens": "transformer.wte",
        "backbone.norm": "transformer.ln_f",
        "self_attn.o_proj": "attn.proj",
        "self_attn.q_norm": "attn.norm_q",
        "self_attn.k_norm": "attn.norm_k",
        "mlp.gate_proj": "mlp.fc_1",
        "mlp.up_proj": "mlp.fc_2",
        "mlp.down_proj": "mlp.proj",
        "input_layernorm": "norm_1",
        "post_attention_layernorm": "norm_2",
        "backbone.layers": "transformer.h",
    }
    joined = {
        f"transformer.h.{layer}.attn.qkv.weight": torch.cat(
            [weights.pop(f"backbone.layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
        )
        for layer in range(layers)
    }
    for name, weight in weights.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        joined[name] = weight
    return joined


@pytest.mark.parametrize("name", ["transformers", "litgpt"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_peer_with_our_weights_has_our_loss_and_gradients(name, qk_norm):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    shape = replace(SMALL, qk_norm=qk_norm)
    (_, make), *peers = find(name, None)
    ours, batch = make(shape), random_batch(shape, torch.device("cpu"))
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)  # so that attention and norms matter
    loss = ours(*batch)
    loss.backward()
    for _, make in peers:
        peer = make(shape)
        assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters())
        assert float(peer(*batch).detach()) == pytest.approx(math.log(65), abs=0.3)  # untrained, it guesses
        weights = {key: value.clone() for key, value in ours.network.state_dict().items()}
        if name == "litgpt":
            weights = as_litgpt(weights, shape.layers)
        else:
            weights = {key.replace("backbone.", "model."): value for key, value in weights.items()}
        peer.network.load_state_dict(weights)
        theirs = peer(*batch)
        theirs.backward()
        assert float(theirs.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
        norms = [torch.stack([p.grad.norm() for p in each.parameters()]).norm() for each in (ours, peer)]
        assert float(norms[1]) == pytest.approx(float(norms[0]), rel=1e-4)


def test_who_takes_part(tmp_path):
    assert [name for name, _ in find("", None)] == ["here"]
    with pytest.raises(UserError, match="'nemo' is none; known are transformers, litgpt"):
        list(find("nemo", None))
    with pytest.raises(UserError, match=r"no model\.py in it"):
        list(find("", tmp_path))
    (tmp_path / "model.py").write_text(
        "import torch\nclass GPTConfig:\n    def __init__(self, **k): self.__dict__.update(k)\n"
        "class GPT(torch.nn.Embedding):\n    def __init__(self, c): super().__init__(c.vocab_size, c.vocab_size)\n"
        "    def forward(self, ids, labels):\n        logits = super().forward(ids)\n"
        "        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())\n"
    )
    found = dict(find("", tmp_path))
    assert float(found["nanogpt"](SMALL)(*random_batch(SMALL, torch.device("cpu"))).detach()) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hidden_size=100"], "must be a multiple of 2 x heads=6"),
        (["precision=fp8"], "precision=fp8"),
        (["rounds=0"], "rounds=0: must be above 0"),
        (["device=tpu"], "device=tpu"),
        (["shape=1b"], "shape=1b: must be of 10m8, 10m32, default, 124m"),
    ],
)
def test_mistakes_are_one_line(words, said):
    with pytest.raises(UserError) as caught:
        parse(Settings, words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_sizes_stand_in_place_of_the_shapes_own():
    assert parse(Settings, ["shape=124m"]).sizes == PRESETS["124m"].shape
    assert parse(Settings, ["shape=10m8", "batch=3"]).sizes == replace(PRESETS["10m8"].shape, batch=3)


def test_the_fastest_of_ours_is_held_to_the_goal_of_the_shape():
    names = ["here a", "litgpt a", "litgpt a +allocator", "here a compiled", "litgpt a compiled", "matmuls alone a"]
    found = {goal.text: goal for goal in goals(names, PRESETS["124m"])}
    best = found["peers as they ship"]
    assert best.wanted == 1.8 and best.ours == ["here a", "here a compiled"]
    assert best.rivals == ["litgpt a", "litgpt a compiled"]
    assert found["peak memory, peers as they ship"].wanted == 0.7
    assert found["a, peers as they ship"].wanted is None
    assert found["a, its matrix products alone"].rivals == ["matmuls alone a"]
    lean = {goal.text: goal for goal in goals([*names, "here a compiled keeping 0.1"], PRESETS["124m"])}
    assert lean["peers as they ship"] == best and lean["peak memory, peers as they ship"].wanted is None
    kept = lean["keeping 0.1 of the activations: peak memory"]
    assert (kept.ours, kept.rivals, kept.wanted) == ("here a compiled keeping 0.1", best.rivals, 0.7)


def test_the_products_alone_are_those_of_the_step():
    """As many operations as the model's own count says, in the dtypes of the step; replayed, the same again."""
    step = TrainingStep(here(SMALL), random_batch(SMALL, torch.device("cpu")), "bf16-true", compiled=False)
    alone = MatmulsAlone(step, step.device)
    with Products() as products:
        alone()
    done = 0
    for (a, b), count in products.counted.items():
        assert a.dtype == b.dtype == torch.bfloat16 and a.shape[-1] == b.shape[-2]
        done += 2 * count * torch.Size(a.shape).numel() * b.shape[-1]
    expected = SMALL.config().flops_per_token(SMALL.length) * step.units
    assert done == pytest.approx(expected, rel=0.01)
    assert alone.numbers()["products"] == sum(products.counted.values())
    assert alone.device == step.device  # on a GPU both end when it has done its work


def test_a_large_model_has_the_memory_for_itself():
    assert Settings(shape="124m").one_at_a_time and not Settings().one_at_a_time
    assert not Settings(shape="124m", fresh=False).one_at_a_time
