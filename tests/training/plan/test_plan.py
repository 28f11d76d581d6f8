"""A plan says of a run what the run then is: its parts of memory, its steps; and whether it fits."""

import re

import pytest
import torch

from lit_llm.backbone.new_rows import count_trained
from lit_llm.config.command_line import compose
from lit_llm.stages.on_policy import check_minibatches
from lit_llm.training.build import load, load_run_tokenizer
from lit_llm.training.plan import memory
from lit_llm.training.plan.remedies import what_would_fit
from lit_llm.training.plan.run_plan import plan_run
from lit_llm.training.train import run as train
from lit_llm.training.trainer import accumulation

WORDS = [
    "backbone.depth=2", "backbone.hidden_size=32", "backbone.max_positions=64", "tokenizer.vocab_size=300",
    "data.max_length=32", "data.micro_batch_size=2", "trainer=cpu", "trainer.precision=32-true",
    "trainer.max_steps=7", "trainer.val_check_interval=3", "trainer.limit_val_batches=1", "trainer.progress=false",
    "evaluation.max_items=2", "evaluation.max_new_tokens=4", "callbacks=none", "logger=csv",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(data):
    return [*WORDS, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]


@pytest.fixture(scope="module")
def parent(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    train(compose("train", words), folder)
    return folder / "model"


def stage_words(name, data, parent):
    own = {
        "pretraining": [],
        "instruction_tuning": [f"init_from={parent}", f"data.path={data}/instructions", "stage.lora_rank=2"],
        "dpo": [f"init_from={parent}", f"data.path={data}/preferences", "trainer.global_batch_size=null"],
    }
    return [f"stage={name}", *own[name], f"data.cache_dir={data}/cache"]


def held_bytes(weight):
    """Of a weight with its scales, where it is in 4 bits, as bitsandbytes holds them."""
    state = getattr(weight, "quant_state", None)
    scales = () if state is None else (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    return weight.nbytes + sum(each.nbytes for each in scales)


def test_qlora_holds_half_a_byte_a_weight_of_the_blocks_and_is_named_where_memory_is_short(
    words, data, parent, tmp_path
):
    pytest.importorskip("bitsandbytes")
    small = [word for word in words if not word.startswith(("data.path", "data.cache", "backbone", "tokenizer"))]
    given = [*small, "data.max_length=64", *stage_words("instruction_tuning", data, parent)]
    cfg = compose("train", [*given, "stage.lora_quantization=nf4"])
    parts = load(cfg, tmp_path)
    shape = memory.shape_of(cfg, parts.tokenizer.vocab_size)
    held, of = shape.memory(memory.Pass(2, 32), 0.0), memory.Pass(2, 32)
    base = {key: each for key, each in parts.stage.model.named_parameters() if ".lora_" not in key}
    assert held.weights == sum(map(held_bytes, base.values()))
    assert sum(each.dtype == torch.uint8 for each in base.values()) == 2 * 7
    trained = sum(each.numel() for each in parts.stage.model.parameters() if each.requires_grad)
    assert shape.trained == trained and held.gradients == 4 * trained
    whole = 4 * parts.stage.model.num_parameters() - 4 * trained
    assert held.read == 2 * whole and parts.start is not None  # the copy that is evaluated first is whole too
    assert held.made == whole
    plain = memory.shape_of(compose("train", given), parts.tokenizer.vocab_size)
    offers = dict(what_would_fit(plain, of, 0.0, 0.0))
    assert offers["stage.lora_rank=2 stage.lora_quantization=nf4"] == held.total
    assert held.training < plain.memory(of, 0.0).training
    assert not any("quantization" in offer for offer in dict(what_would_fit(shape, of, 0.0, 0.0)))


@pytest.mark.parametrize("name", ["pretraining", "instruction_tuning", "dpo"])
def test_parts_of_memory_are_those_of_the_run(name, words, data, parent, tmp_path):
    small = [word for word in words if not word.startswith(("data.path", "data.cache"))]
    given = small if name == "pretraining" else [w for w in small if not w.startswith(("backbone", "tokenizer"))]
    extra = [f"data.path={data}/raw_text"] if name == "pretraining" else ["data.max_length=64"]
    cfg = compose("train", [*given, *extra, *stage_words(name, data, parent)])
    parts = load(cfg, tmp_path)
    shape = memory.shape_of(cfg, parts.tokenizer.vocab_size)
    held = shape.memory(memory.Pass(2, 32), 0.0)
    weights = list(parts.stage.model.parameters())
    base = sum(each.numel() for key, each in parts.stage.model.named_parameters() if ".lora_" not in key)
    assert held.weights == 4 * base
    trained = sum(each.numel() for each in weights if each.requires_grad)
    assert shape.trained == trained and held.gradients == 4 * trained
    beside = [] if parts.stage.reference is None else list(parts.stage.reference.parameters())
    assert held.copies == 4 * sum(each.numel() for each in beside)
    optimizer = parts.stage.make_optimizer(parts.stage)
    for each in weights:
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.dim()]
    assert shape.states == sum(each.numel() for each in kept)


@pytest.mark.parametrize("rank", [0, 2])
def test_new_tokens_count_as_what_is_trained_of_them(rank, words, data, parent, tmp_path):
    small = [word for word in words if not word.startswith(("data.path", "data.cache", "backbone", "tokenizer"))]
    texts = [f"data.path={data}/raw_text", "data.replay_path=null", "data.replay_ratio=0"]
    given = ["stage=continued_pretraining", f"init_from={parent}", f"data.cache_dir={data}/cache"]
    new = ["stage.new_tokens=[zqxj,jxqz,zzxq]", f"stage.lora_rank={rank}"]
    cfg = compose("train", [*small, *given, *texts, *new])
    shape = memory.shape_of(cfg, load_run_tokenizer(cfg, tmp_path / "tokenizer").vocab_size)
    parts = load(cfg, tmp_path)
    optimizer = parts.stage.make_optimizer(parts.stage)
    for one in (one for group in optimizer.param_groups for one in group["params"]):
        one.grad = torch.zeros_like(one)
    optimizer.step()
    assert shape.config.vocab_size == parts.stage.model.config.vocab_size
    assert shape.trained == count_trained(parts.stage.model)
    with_gradients = [one for one in parts.stage.parameters() if one.requires_grad]
    assert shape.gradients == sum(one.numel() for one in with_gradients)
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert shape.states == sum(value.numel() for value in moments)


def test_time_and_steps_are_those_of_the_run(words, tmp_path):
    found = plan_run(compose("train", words), True, tmp_path / "plan")
    assert (tmp_path / "plan/model/model.safetensors").is_file()
    (line,) = [line for line in found.lines if line.startswith("time")]
    assert "7 steps" in line and found.time.total > 0
    metrics = train(compose("train", words), tmp_path / "run")
    assert metrics["steps"] == 7


def test_what_the_steps_held_counts_where_it_is_more_than_the_parts(words, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "process_bytes", lambda: 1e9)  # no less, when some of it was swapped out
    cfg, parts = compose("train", words), plan_run(compose("train", words), False, tmp_path / "parts").memory
    for name, peaks, most in (("more", [1e9, 9e12], 9e12), ("earlier", [9e12, 9e12], None), ("less", [0.0, 1.0], None)):
        left = iter(peaks)
        monkeypatch.setattr(memory, "peak_bytes", lambda _, left=left: next(left))
        found = plan_run(cfg, True, tmp_path / name).memory
        assert found == (most or pytest.approx(parts, rel=0.01))


def test_epochs_are_counted_in_steps(words, tmp_path):
    epochs = [*(word for word in words if "max_steps" not in word), "trainer.max_steps=null", "trainer.max_epochs=2"]
    told = plan_run(compose("train", epochs), False, tmp_path / "plan").lines
    steps = next(
        int(found[1].replace(",", "")) for line in told if (found := re.match(r"tokens +([\d,]+) steps", line))
    )
    assert train(compose("train", epochs), tmp_path / "run")["steps"] == steps


@pytest.mark.parametrize(("rows_a_step", "steps"), [(64, 1), (6, None)])
def test_tokens_of_an_epoch_that_has_less_than_a_step_or_no_whole_number_of_them(words, tmp_path, rows_a_step, steps):
    """What a step might hold is not what there is: the padding of the last row is no token either."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"text": "The rent of month {n} is {n * 37} and is due."}}\n' for n in range(40)))
    own = [word for word in words if not word.startswith(("data.path", "trainer.max_steps"))]
    own += [f"data.path={texts}", "trainer.max_steps=null", "trainer.max_epochs=3"]
    own += [f"trainer.global_batch_size={rows_a_step}", "data.max_length=64"]
    told = [line.replace(",", "") for line in plan_run(compose("train", own), False, tmp_path / "plan").lines]
    [(rows, trained)] = [found.groups() for line in told if (found := re.search(r"has (\d+) rows (\d+) trained", line))]
    [(count, _, total)] = [
        found.groups() for line in told if (found := re.search(r"tokens +(\d+) steps? of (\d+)[^:]*: (\d+)", line))
    ]
    assert int(rows) < 64 and int(count) == 3 * (steps or -(-int(rows) // rows_a_step))
    if steps:
        assert int(total) == 3 * int(trained)
    else:
        assert int(total) == pytest.approx(3 * int(trained), rel=0.05)
        assert any("the last of an epoch of fewer" in line for line in told) == (int(rows) % rows_a_step > 0)
    metrics = train(compose("train", own), tmp_path / "run")
    assert metrics["steps"] == int(count)


def test_what_does_not_fit_is_said_before_a_weight_is_read_and_what_would(words, tmp_path, monkeypatch):
    cfg, process = compose("train", [*words, "data.micro_batch_size=8", "evaluation.generate=false"]), 1e9
    monkeypatch.setattr(memory, "process_bytes", lambda: process)
    needs = plan_run(cfg, False, tmp_path / "a").memory
    monkeypatch.setattr(memory, "available", lambda _: (process + 0.6 * (needs - process)) / memory.SPARE)
    monkeypatch.setattr("lit_llm.training.build.load_run_model", lambda *_: pytest.fail("weights are made"))
    found = plan_run(cfg, True, tmp_path / "b")
    text = "\n".join(found.lines)
    rows = re.search(r"data\.micro_batch_size=(\d)", text)
    assert found.time is None and "does not fit" in text and rows is not None and 1 <= int(rows[1]) < 8
    fewer = compose("train", [*words, f"data.micro_batch_size={rows[1]}", "evaluation.generate=false"])
    assert plan_run(fewer, False, tmp_path / "c").memory <= process + 0.6 * (needs - process)


def offers_of(cfg, of, part):
    """What would make ``part`` of the memory that a run needs above its weights enough."""
    shape = memory.shape_of(cfg, 300)
    least, most = shape.memory(memory.Pass(1, of.length), 0.0).training, shape.memory(of, 0.0).total
    return dict(what_would_fit(shape, of, 0.0, least + part * (most - least)))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_fewer_comparisons_are_what_they_are_called_and_share_a_step_out(part, words, data, parent):
    small = [word for word in words if not word.startswith(("data.path", "data.cache", "data.m", "backbone", "token"))]
    own = ["stage=dpo", f"init_from={parent}", f"data.path={data}/preferences", f"data.cache_dir={data}/cache"]
    given = [*small, *own, "data.max_length=64", "trainer.global_batch_size=12"]
    for found in offers_of(compose("train", [*given, "data.micro_batch_size=6"]), memory.Pass(17, 32), part):
        cfg = compose("train", [*given, "data.micro_batch_size=6", *found.split()])
        accumulation(cfg)  # raises where they do not
        if "micro_batch_size" in found:
            assert cfg.data.micro_batch_size in (1, 2, 3, 4)


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_rollout_is_computed_in_smaller_parts_and_its_updates_stay_whole(part, words, data, parent):
    small = [word for word in words if not word.startswith(("data.path", "data.m", "backbone", "token"))]
    own = ["stage=grpo", "reward=length", f"init_from={parent}", f"data.path={data}/prompts"]
    more = ["stage.group_size=2", "stage.minibatches=4", "data.micro_batch_size=8", "stage.max_new_tokens=20"]
    given = [*small, *own, *more]
    cfg = compose("train", given)
    options = memory.stage_options(cfg)
    of = memory.Pass(*options.pass_over(8, 12), sampled=options.sampled(8, 12))
    offers = offers_of(cfg, of, part)
    assert any("stage.micro_batch_size=" in each for each in offers)
    for found in offers:
        less = compose("train", [*given, *found.split()])
        check_minibatches(less.data.micro_batch_size, 2, 4)


def test_processes_share_an_epoch_out_and_each_has_its_tokens(words, tmp_path):
    epochs = [*(word for word in words if "max_steps" not in word), "trainer.max_steps=null", "trainer.max_epochs=2"]
    told = [plan_run(compose("train", [*epochs, *more]), False, tmp_path / str(len(more))).lines
            for more in ([], ["trainer.devices=2"])]  # fmt: skip
    one, two = (re.findall(r"tokens +(\d+) steps of (\d+)", "\n".join(lines).replace(",", ""))[0] for lines in told)
    assert abs(int(one[0]) - 2 * int(two[0])) <= 2 and 2 * int(one[1]) == int(two[1])
    assert any("this run 2" in line for line in told[1])


def test_rollouts_are_counted_with_their_answers(words, data, parent, tmp_path):
    own = ["stage=grpo", "reward=length", f"init_from={parent}", f"data.path={data}/prompts", "data.micro_batch_size=3"]
    small = [
        word for word in words if not word.startswith(("data.path", "data.max", "data.micro", "backbone", "token"))
    ]
    more = ["stage.group_size=4", "stage.max_new_tokens=5", "stage.epochs=2", "evaluation.enabled=false"]
    cfg = compose("train", [*small, *own, *more])
    told = [line.replace(",", "") for line in plan_run(cfg, False, tmp_path).lines]
    (size,) = (int(found[1]) for line in told if (found := re.search(r"a pass +\d+ rows of (\d+) tokens", line)))
    (tokens,) = (int(found[1]) for line in told if (found := re.search(r"steps of (\d+)", line)))
    assert 0.5 * size < tokens / (2 * 3 * 4) <= size
    assert any(line.strip().startswith("cache") for line in told)
