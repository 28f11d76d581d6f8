"""The configuration's files. Importing them makes the schemas and resolvers known that they use, so that
``hydra.initialize_config_module("lit_llm.conf")`` and ``hydra.compose("train", overrides)`` work by themselves."""

from lit_llm.config.schema import register

register()
