"""An option of the data is written once: its dataclass is the constructor's argument and the keys of a configuration;
what makes no sense is told before torch is imported."""

import re
import subprocess
import sys

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import check
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.signatures import signature
from lit_llm.config.targets import construct
from lit_llm.data import options
from lit_llm.data.data_module import DataModule
from lit_llm.errors import UserError
from tests.config.options_files import assert_read, content, files, kind_of

FILES = files("data")


@pytest.mark.parametrize("name", FILES)
def test_every_option_is_read_by_the_data_modules(name):
    by_options = ("ptx_path", "ptx_max_length", "ptx_micro_batch_size", "micro_batch_size")
    assert_read("data", name, options, by_options=by_options)


@pytest.mark.parametrize("name", FILES)
def test_a_file_makes_the_data_module_that_its_options_make(tokenizer, name):
    target, values = content("data", name)
    given = {**values, "path": "some/file.jsonl", "seed": 3}
    made = construct({"_target_": target, "_partial_": True, **given}, "data")(tokenizer=tokenizer)
    kind = kind_of("data", name)[1]
    lists = {name: [] for name in ("ignore_keys", "decontaminate", "earlier_heldout", "languages")}
    assert made.options == kind(path="some/file.jsonl", seed=3, **lists)


def test_pretraining_text_is_read_as_the_prompts_are():
    given = {"seed": 5, "num_workers": 1, "on_error": "skip", "clean": False, "cache_dir": "elsewhere"}
    mixed = {"ptx_path": "a.txt", "ptx_max_length": 16, "ptx_micro_batch_size": 2}
    text = options.PromptsOptions(**given, **mixed, format="prompt", name="asked").pretraining_text()
    assert text == options.TextOptions(**given, path="a.txt", max_length=16, micro_batch_size=2)
    assert options.PromptsOptions(**given).pretraining_text() is None


TEXT, DOMAIN, PROMPTS = options.TextOptions, options.DomainCorporaOptions, options.PromptsOptions
RANKINGS, LABELS = options.PreferencesOptions, options.LabelledAnswersOptions
NOTHING_LEFT = "nothing is left to train on; together they must be below 1"


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        (TEXT, {"micro_batch_size": 0}, "data.micro_batch_size=0: must be at least 1"),
        (TEXT, {"num_workers": -1}, "data.num_workers=-1: must be at least 0"),
        (TEXT, {"seed": -1}, "data.seed=-1: must be at least 0"),
        (TEXT, {"on_error": "warn"}, "data.on_error=warn: must be one of stop, skip"),
        (TEXT, {"name": "a/b"}, "data.name=a/b: a name is needed, without / and not a path; such as 'b'"),
        (TEXT, {"ignore_keys": "ab"}, "data.ignore_keys=ab: a list of keys is needed, such as [tools,images]"),
        (
            TEXT,
            {"encoding": "zip"},
            "data.encoding=zip: no encoding; such as utf-8, windows-1256, latin-1, utf-16, or auto",
        ),
        (
            TEXT,
            {"validation_fraction": 1.0},
            "data.validation_fraction=1.0, data.test_fraction=0.05: each from 0 and together below 1",
        ),
        (
            TEXT,
            {"validation_fraction": 0.6, "test_fraction": 0.4},
            f"data.validation_fraction=0.6 and data.test_fraction=0.4: {NOTHING_LEFT}",
        ),
        (TEXT, {"max_length": 1}, "data.max_length=1: must be at least 2"),
        (DOMAIN, {"replay_ratio": 1.0}, "data.replay_ratio=1.0: a share of the rows, from 0 to below 1"),
        (DOMAIN, {"replay_path": None}, "data.replay_ratio=0.2: set data.replay_path, or a ratio of 0"),
        (DOMAIN, {"replay_name": ""}, "data.replay_name=: a name is needed, without / and not a path; such as ''"),
        (options.TaskPairsOptions, {"overlong": "cut"}, "data.overlong=cut: must be one of drop, truncate"),
        (options.InstructionsOptions, {"max_length": 1}, "data.max_length=1: must be at least 2"),
        (RANKINGS, {"overlong": "cut"}, "data.overlong=cut: must be one of drop, truncate"),
        (RANKINGS, {"annotator_weights": {"ann": -1}}, "data.annotator_weights.ann=-1: must be at least 0"),
        (RANKINGS, {"half": "third"}, "data.half=third: must be one of first, second"),
        (RANKINGS, {"attacks": 1.5}, "data.attacks=1.5: a share of the training prompts, from 0 to 1"),
        (LABELS, {"label": "best"}, "data.label=best: must be one of desirable, flagged"),
        (LABELS, {"min_severity": 4}, "data.min_severity=4: must be 1, 2 or 3"),
        (LABELS, {"flag_kinds": []}, "data.flag_kinds=[]: a list of kinds is needed, or null for all"),
        (PROMPTS, {"max_prompt_length": 0}, "data.max_prompt_length=0: must be at least 1"),
        (PROMPTS, {"ptx_micro_batch_size": 0}, "data.ptx_micro_batch_size=0: must be at least 1"),
        (PROMPTS, {"ptx_max_length": 1}, "data.ptx_max_length=1: must be at least 2"),
    ],
)
def test_what_makes_no_sense_is_one_line_where_the_options_are_made(kind, values, line):
    path = {"path": "x"} if kind in (RANKINGS, LABELS) else {}
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        kind(**path, **values)


LINES = [
    (["data.replay_path=null"], "data.replay_ratio=0.2: set data.replay_path, or a ratio of 0"),
    (["data.encoding=utf-7x"], "data.encoding=utf-7x: no encoding; such as utf-8"),
    (["data.name=a/b"], "data.name=a/b: a name is needed, without / and not a path"),
    (["data.max_length=1"], "data.max_length=1: must be 2 or more"),  # told once
    (["+data.options=1"], "data.options=1: unknown key"),
]


@pytest.mark.parametrize(("words", "line"), LINES)
def test_a_mistake_on_the_command_line_is_one_line(words, line):
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", ["stage=continued_pretraining", *words, "init_from=m"]))
    (told,) = [each for each in str(error.value).splitlines() if each.startswith("data.")]
    assert told.startswith(line)


def test_a_relation_in_a_pipeline_is_told_by_the_steps_own_keys():
    schema.register()
    words = ["stages.pretraining.data.validation_fraction=0.5", "stages.pretraining.data.test_fraction=0.5"]
    with pytest.raises(UserError) as error:
        check("pipeline", hydra_words("pipeline", words))
    data = "stages.pretraining.data"
    assert f"{data}.validation_fraction=0.5 and {data}.test_fraction=0.5: {NOTHING_LEFT}" in str(error.value)


def test_a_text_that_the_environment_gives_is_not_judged_before_it_is_there(monkeypatch):
    monkeypatch.setenv("ENCODING_OF_TEST", "latin-1")
    schema.register()
    words = ["stage=dpo", "init_from=m", "data.path=x", "data.encoding=${oc.env:ENCODING_OF_TEST}"]
    with pytest.raises(UserError) as error:  # that there is no such model
        check("train", hydra_words("train", words))
    assert "data.encoding" not in str(error.value)


def test_a_relation_is_told_before_torch_is_imported():
    words = ["stage=continued_pretraining", "init_from=m", *LINES[0][0]]
    code = f"import sys\nfrom lit_llm.training.command import main\nsys.argv[1:] = {words}\n"
    code += "try:\n main()\nfinally:\n print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.strip() == "False", done.stderr
    assert done.stderr.strip() == f"error: {LINES[0][1]}"


OWN = """
import dataclasses
from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(TextOptions):
    share: float = 0.5

class Told(RawText):
    Options = Mine

class Plain(RawText):
    def __init__(self, *, tokenizer, path="x", share: float = 0.5):
        super().__init__(TextOptions(path=path), tokenizer=tokenizer)
        self.share = share

class Neither(RawText):
    pass
"""


def test_data_of_ones_own_has_options_or_a_signature_of_its_own(tmp_path, monkeypatch, tokenizer):
    (tmp_path / "own_data_of_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, key in (("Told", "share"), ("Plain", "share"), ("Neither", "max_length")):
        target = f"own_data_of_test.{name}"
        known = {each.name for each in signature(target).parameters}
        assert {key, "path", "tokenizer"} <= known and ("encoding" in known) == (name != "Plain")
        node = {"_target_": target, "_partial_": True, "path": "there", key: 17}
        data = construct(node, "data", ["own_data_of_test."])(tokenizer=tokenizer)
        assert isinstance(data, DataModule) and data.options.path == "there"
        assert getattr(data.options, key, getattr(data, key, None)) == 17
