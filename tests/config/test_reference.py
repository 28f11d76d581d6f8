"""The reference of every key is what the dataclasses and the files of conf/ say."""

import pytest

from lit_llm.config.conf_files import conf_folder
from lit_llm.config.reference import help_of, keys_of, options_in, page
from lit_llm.stages.options import PPOOptions
from tests.config.options_files import GROUPS, files


def test_the_page_is_up_to_date():
    kept = (conf_folder() / "README.md").read_text(encoding="utf-8")
    assert kept == page(), "python -m lit_llm.config.reference writes it anew"


def test_inherited_keys_come_first_and_an_own_default_stands():
    names = [key.name for key in keys_of(PPOOptions)]
    assert names.index("lora_rank") < names.index("epochs") < names.index("kl_coef") and len(names) == len(set(names))
    (epochs,) = [key for key in keys_of(PPOOptions) if key.name == "epochs"]
    assert (epochs.type, epochs.default) == ("int", "4")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_there_with_its_type_and_a_comment(group):
    for file in (conf_folder() / group / f"{name.partition('.')[0]}.yaml" for name in files(group)):
        keys = options_in(file)
        assert not [key.name for key in keys if key.type and not key.comment], file
        assert group == "stage" or all(key.type for key in keys if key.default != "{...}"), file


def test_a_file_that_says_what_differs_has_types_and_comments_too():
    keys = {key.name: key for key in options_in(conf_folder() / "optimizer/default_chain/pretraining.yaml")}
    assert keys["momentum"].type == "float" and "hidden matrices" in keys["momentum"].comment
    (samples,) = options_in(conf_folder() / "backbone/1m.yaml")[:1]
    assert (samples.name, samples.type, samples.default) == ("depth", "int", "3")


def test_the_keys_of_a_part_inside_a_file_are_spelt_out():
    names = [key.name for key in options_in(conf_folder() / "callbacks/default.yaml")]
    assert "samples.every_n_steps" in names and "samples" not in names
    names = [key.name for key in options_in(conf_folder() / "stage/reward_modeling.yaml")]
    assert {"reward_validation", "reward_validation.doubt"} <= set(names)


def test_the_help_of_a_stage_shows_its_options():
    lines = "\n".join(help_of("ppo"))
    assert "stage.kl_coef=0.05" in lines and "the price of a nat away from the reference" in lines
