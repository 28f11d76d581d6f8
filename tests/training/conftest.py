"""The small models that the tests of evaluation share."""

from tests.evaluation.conftest import model, reward_model, tokenizer  # noqa: F401
