"""Scores are read again only where all that gave them is the same."""

from omegaconf import OmegaConf

from lit_llm.training.evaluation_key import settings_hash

RUN = {
    "evaluation": {"seed": 0, "objective": "-prompts/score/reward"},
    "trainer": {"precision": "32-true", "accelerator": "cpu", "max_steps": 3},
    "stage": {"reward": {"folder": "a"}, "gold": {"folder": "b"}, "epochs": 1},
}


def changed(*path, to):
    cfg = OmegaConf.create(RUN)
    OmegaConf.update(cfg, ".".join(path), to)
    return settings_hash(cfg, None)


def test_the_rewards_that_judge_and_the_settings_count_and_no_others():
    same = settings_hash(OmegaConf.create(RUN), None)
    assert changed("stage", "gold", "folder", to="c") != same
    assert changed("stage", "reward", "folder", to="c") != same
    assert changed("evaluation", "seed", to=1) != same and settings_hash(OmegaConf.create(RUN), {"sat": 1}) != same
    assert changed("stage", "epochs", to=2) == same == changed("evaluation", "objective", to=None)
