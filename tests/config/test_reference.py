"""The reference of every key is what the dataclasses and the files of conf/ say."""

import pytest

from lit_llm.config.conf_files import conf_folder
from lit_llm.config.reference import help_of, keys_of, options_in, page
from lit_llm.stages.options import PPOOptions


def test_the_page_is_up_to_date():
    kept = (conf_folder() / "README.md").read_text(encoding="utf-8")
    assert kept == page(), "python -m lit_llm.config.reference writes it anew"


def test_inherited_keys_come_first_and_an_own_default_stands():
    names = [key.name for key in keys_of(PPOOptions)]
    assert names.index("lora_rank") < names.index("epochs") < names.index("kl_coef") and len(names) == len(set(names))
    (epochs,) = [key for key in keys_of(PPOOptions) if key.name == "epochs"]
    assert (epochs.type, epochs.default) == ("int", "4")


@pytest.mark.parametrize("group", ["stage", "data"])
def test_every_option_is_there_with_a_comment(group):
    for file in (conf_folder() / group).glob("*.yaml"):
        keys = options_in(file)
        assert keys and not [key.name for key in keys if key.type and not key.comment], file


def test_the_help_of_a_stage_shows_its_options():
    lines = "\n".join(help_of("ppo"))
    assert "stage.kl_coef=0.05" in lines and "the price of a nat away from the reference" in lines
