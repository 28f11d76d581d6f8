"""LitLLM: build a custom LLM through every stage that large labs use, on a laptop or a cluster."""

__version__ = "0.1.0"
