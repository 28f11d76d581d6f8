"""Invariant: what is sampled with the cache, in any batch, is what the plain forward would have sampled."""

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.objectives.language import token_logps

VOCABULARY = 40


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = from_depth(VOCABULARY, 2, hidden_size=32, num_heads=2, num_kv_heads=1, max_positions=64, dropout=0.1)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # far from uniform, so that greedy choices and distributions tell something
    return model.eval()


def prompts(count=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def uncached_greedy(model, prompt, limit, end_ids):
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
        if ids[-1] in end_ids:
            break
    return ids


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_greedy_equals_uncached_greedy(model, batch_size):
    rollout = generate(model, prompts(), max_new_tokens=15, end_ids=(3, 7), temperature=0, batch_size=batch_size)
    for row, length, prompt in zip(rollout.input_ids.tolist(), rollout.lengths.tolist(), prompts(), strict=True):
        assert row[:length] == uncached_greedy(model, prompt, 15, (3, 7))
        assert not any(row[length:])


def test_greedy_equals_transformers(model):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    c = model.config
    theirs = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
            num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads, num_key_value_heads=c.num_kv_heads,
            head_dim=c.head_dim, max_position_embeddings=c.max_positions, rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta}, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict({k.replace("backbone.", "model.", 1): v for k, v in model.state_dict().items()})
    ours = generate(model, prompts(), max_new_tokens=12, end_ids=(), temperature=0, batch_size=4)
    for row, length, prompt in zip(ours.input_ids, ours.lengths, prompts(), strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert row[:length].tolist() == expected[0].tolist()


def test_logps_equal_the_training_forward(model):
    rollout = generate(model, prompts(), max_new_tokens=20, end_ids=(5,), temperature=0.7, seed=3, batch_size=4)
    with torch.no_grad():
        hidden = model(rollout.input_ids)[:, :-1]
        expected = token_logps(hidden, model.output_weight, rollout.input_ids[:, 1:], temperature=0.7)
    assert rollout.mask.any()
    torch.testing.assert_close(rollout.logps[rollout.mask], expected[rollout.mask], atol=1e-4, rtol=1e-4)
    assert not rollout.logps[~rollout.mask].any()


def test_mask_and_lengths_cover_the_completion_with_its_end(model):
    rollout = generate(model, prompts(), max_new_tokens=20, end_ids=(5, 9), seed=4, batch_size=2)
    assert rollout.mask.sum(1).tolist() == (rollout.lengths - rollout.prompt_lengths).tolist()
    for row, start, end, finished, prompt, answer in zip(
        rollout.input_ids.tolist(), rollout.prompt_lengths.tolist(), rollout.lengths.tolist(),
        rollout.finished.tolist(), prompts(), completions(rollout), strict=True,
    ):  # fmt: skip
        assert row[:start] == prompt
        assert finished == (row[end - 1] in (5, 9))
        assert not {5, 9} & set(row[start : end - 1])
        assert finished or end - start == 20
        assert answer == row[start : end - finished]
    assert rollout.finished.any() and not rollout.finished.all()


def test_the_seed_decides_and_the_batch_does_not(model):
    def run(seed, batch_size, samples=2):
        return generate(
            model, prompts(), max_new_tokens=10, end_ids=(5,), seed=seed, batch_size=batch_size, samples=samples
        )

    one = run(0, 32)
    for other in (run(0, 32), run(0, 1), run(0, 5)):
        assert torch.equal(one.input_ids, other.input_ids)
        torch.testing.assert_close(one.logps, other.logps, atol=1e-4, rtol=1e-4)
    assert not torch.equal(one.input_ids[:, :12], run(1, 32).input_ids[:, :12])
    shared = torch.Generator().manual_seed(0)
    first, second = (
        generate(model, prompts(), max_new_tokens=10, end_ids=(), generator=shared).input_ids for _ in range(2)
    )
    assert not torch.equal(first, second)


def test_samples_of_a_prompt_stand_side_by_side_and_differ(model):
    rollout = generate(model, prompts(4), max_new_tokens=12, end_ids=(), samples=3)
    starts = rollout.prompt_lengths.view(4, 3)
    assert torch.equal(starts, starts[:, :1].expand(4, 3))
    assert starts[:, 0].tolist() == [len(p) for p in prompts(4)]
    assert len({tuple(c) for c in completions(rollout)}) == 12


def test_sampled_frequencies_follow_the_distribution(model):
    """Chi-square over the first and, given the first, the second token: the 1 in 10,000 bound."""
    prompt, n = [4, 8, 15], 4000
    rollout = generate(
        model, [prompt], max_new_tokens=2, end_ids=(), temperature=1.3, samples=n, seed=5, batch_size=1000
    )
    first, second = rollout.input_ids[:, 3], rollout.input_ids[:, 4]
    common = int(first.mode().values)
    for context, observed in ((prompt, first), ([*prompt, common], second[first == common])):
        with torch.no_grad():
            p = (model.logits(model(torch.tensor([context])))[0, -1] / 1.3).softmax(-1).double()
        expected, counts = p * len(observed), torch.bincount(observed, minlength=VOCABULARY).double()
        big = expected >= 5
        expected = torch.cat([expected[big], expected[~big].sum()[None]])
        counts = torch.cat([counts[big], counts[~big].sum()[None]])
        statistic = float(((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum())
        degrees = len(expected) - 1
        assert degrees >= 5
        bound = degrees * (1 - 2 / (9 * degrees) + 3.72 * (2 / (9 * degrees)) ** 0.5) ** 3  # Wilson-Hilferty
        assert statistic < bound


def test_the_context_ends_a_completion(model):
    long = [1] * 60
    rollout = generate(model, [long, [2]], max_new_tokens=30, end_ids=())
    assert rollout.lengths.tolist() == [64, 31]


def test_each_answer_may_have_a_limit_of_its_own(model):
    rollout = generate(model, prompts(5), max_new_tokens=[3, 9, 1, 4, 2], end_ids=(), batch_size=2)
    assert (rollout.lengths - rollout.prompt_lengths).tolist() == [3, 9, 1, 4, 2]


def test_tensors_are_taken_like_lists(model):
    rows = torch.tensor([[1, 2, 3], [4, 9, 9]])
    given = generate(model, (rows, torch.tensor([3, 1])), max_new_tokens=5, end_ids=(), temperature=0)
    listed = generate(model, [[1, 2, 3], [4]], max_new_tokens=5, end_ids=(), temperature=0)
    assert torch.equal(given.input_ids, listed.input_ids)


def test_nothing_to_do(model):
    assert generate(model, [], max_new_tokens=5, end_ids=()).input_ids.shape == (0, 0)


def test_bfloat16_leaves_the_model_as_it_was(model):
    model.train()
    rollout = generate(model, prompts(), max_new_tokens=5, end_ids=(), dtype=torch.bfloat16)
    assert model.training and model.output_weight.dtype == torch.float32
    assert rollout.logps.dtype == torch.float32
    model.eval()


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1] * 64], {}, "context holds 64"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1"),
        ([[1]], {"top_k": 0}, "top_k=0"),
        ([[1]], {"top_p": 1.5}, "top_p=1.5"),
        ([[1]], {"max_new_tokens": [4, 4]}, "2 numbers for 1 prompts"),
        ([[1], [2]], {"max_new_tokens": [4, 0]}, "max_new_tokens=0"),
        ([[1]], {"cuda_graph": True}, "needs a GPU"),
    ],
)
def test_mistakes_are_named(model, given, options, words):
    with pytest.raises(UserError, match=words):
        generate(model, given, **{"max_new_tokens": 4, "end_ids": (), **options})


def test_weights_that_are_no_numbers_are_an_error(model):
    import copy

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.backbone.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        generate(broken, [[1]], max_new_tokens=2, end_ids=())
