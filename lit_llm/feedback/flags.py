"""The kinds of flag and their severities, for everybody who reads flags; nothing of the app's extra is needed."""

from lit_llm.feedback.store.flag_kinds import FLAG_KINDS, SEVERITIES, FlagKind

__all__ = ["FLAG_KINDS", "SEVERITIES", "FlagKind"]
