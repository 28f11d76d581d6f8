"""The control tokens of a vocabulary that is learned here, as Qwen writes them."""

DOCUMENT_END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (DOCUMENT_END, TURN_START, TURN_END)
