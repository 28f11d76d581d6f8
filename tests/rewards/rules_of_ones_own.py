"""Rewards as a user would write them, for the tests."""
# ruff: noqa: ARG001

NO_FUNCTION = 3


def words(prompts, completions):
    return [len(text.split()) for text in completions]


def right(prompts, completions, rows):
    return [float(text == row["answer"]) for text, row in zip(completions, rows, strict=True)]


def one_number(prompts, completions):
    return [1.0]


def fails(prompts, completions):
    return 1 / 0


def texts(prompts, completions):
    return ["good" for _ in completions]


def of_one(text):
    return 1.0
