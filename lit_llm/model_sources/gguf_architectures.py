"""The families that GGUF files hold: llama.cpp's names of tensors and entries beside those of a model folder.

One table for both ways: ``gguf_model.py`` reads a file by it as a folder, ``lit_llm/export`` writes one. Names and keys
are those of llama.cpp's own converter, so that published files are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lit_llm.model_sources.gguf_forms import AS_IT_IS, STACKED


class Entry(NamedTuple):
    """An entry of the head, below the architecture's name, and the setting of config.json that it is.

    ``default``: what llama.cpp takes where a file has none; None: it has to be there.
    """

    key: str
    setting: str
    kind: type = int
    default: Any = None


class Piece(NamedTuple):
    """A tensor of a file, and the folder's that it is made of (one, but where experts are stacked)."""

    name: str
    part: str  # its name without the layer's number and its last word
    theirs: list[str]
    form: str
    needed: bool  # else it is there in some files


@dataclass(frozen=True)
class GGUFFamily:
    """One family. ``layer``, ``top``: llama.cpp's names to the folder's."""

    architecture: str
    language: str  # class in config.json
    model_type: str
    layer: Mapping[str, str]
    top: Mapping[str, str]
    layers: str = "model.layers."
    forms: Mapping[str, str] = field(default_factory=dict)  # of tensors that are laid out otherwise
    shapes: Mapping[str, str] = field(default_factory=dict)  # of tensors that are not as ``SHAPES`` has them
    biased: tuple[str, ...] = ()  # tensors that have biases
    always_biased: bool = False  # else a file chooses
    norm_eps: str = "attention.layer_norm_rms_epsilon"
    names: Mapping[str, str | None] = field(default_factory=dict)  # of usual settings in config.json; None: it has none
    entries: tuple[Entry, ...] = ()  # more of them
    fixed: Mapping[str, Any] = field(default_factory=dict)  # settings that the architecture has in itself
    spoken: tuple[str, ...] = ()  # of these, what llama.cpp computes alike and files written here say (``OWN``)
    # The sliding window
    every: int | None = None  # every so many layers one sees all; None: llama.cpp has no window here
    window: int = 0  # where a file does not say; 0: there is none
    one_window: bool = False  # of all layers: files say it, llama.cpp computes without
    pattern: bool = False  # files say which layers have it
    largest: int = 0  # so many layers has the model whose scores are scaled otherwise (Gemma's 27B)
    scored: bool = False  # config.json says by what scores are scaled (Gemma)
    # Rotary positions
    rope_kinds: tuple[str, ...] | None = ("linear", "yarn")  # of stretching; None: there are no rotary positions
    theta_key: str = "rope_theta"
    share_key: str | None = None  # the part of a head that is turned; None: all of it
    rope_by_layer: bool = False  # layers with a window have a base of their own and are never stretched
    window_theta: float | None = None  # that base where a file does not say; None: as elsewhere

    def usual(self) -> Iterator[Entry]:
        """All entries, those that every family has and its own, by config.json's names in this family."""
        for entry in (*USUAL, Entry(self.norm_eps, "rms_norm_eps", float)):
            if (setting := self.names.get(entry.setting, entry.setting)) is not None:
                yield entry._replace(setting=setting)
        yield from self.entries

    def pieces(self, layers: int, experts: int = 0) -> Iterator[Piece]:
        """Each tensor of a file with so many layers."""
        for part, theirs in self.top.items():
            for kind in self._kinds(part):
                yield Piece(f"{part}.{kind}", part, [f"{theirs}.{kind}"], self.forms.get(part, AS_IT_IS), True)
        for layer in range(layers):
            for part, theirs in self.layer.items():
                form = self.forms.get(part, AS_IT_IS)
                each = range(experts) if form == STACKED else (0,)
                for kind in self._kinds(part):
                    names = [f"{self.layers}{layer}.{theirs.format(expert)}.{kind}" for expert in each]
                    needed = kind == "weight" or self.always_biased
                    yield Piece(f"blk.{layer}.{part}.{kind}", part, names, form, needed)

    def _kinds(self, part: str) -> tuple[str, ...]:
        return ("weight", "bias") if part in self.biased else ("weight",)

    def sees_all(self, layer: int) -> bool:
        """Whether a layer is without the window, by llama.cpp's own pattern."""
        return self.every is None or (layer + 1) % self.every == 0

    def score_width(self, layers: int, hidden: int, heads: int, head_dim: int) -> float:
        """By the root of what Gemma's scores are divided in llama.cpp, which tells the 27B by its layers."""
        return hidden / heads if layers == self.largest else float(head_dim)


USUAL = (
    Entry("context_length", "max_position_embeddings"),
    Entry("embedding_length", "hidden_size"),
    Entry("block_count", "num_hidden_layers"),
    Entry("feed_forward_length", "intermediate_size"),
    Entry("attention.head_count", "num_attention_heads"),
    Entry("attention.head_count_kv", "num_key_value_heads", int, "attention.head_count"),
    Entry("attention.key_length", "head_dim", int, "width"),
    Entry("attention.value_length", "head_dim", int, "width"),
)
"""A default that is a text is another entry, or hidden_size shared out among the heads."""
OWN = "lit_llm.config."  # entries of files that are written here: settings that llama.cpp does not ask for
SHAPES: Mapping[str, str] = {
    "attn_norm": "hidden", "attn_q": "q hidden", "attn_k": "kv hidden", "attn_v": "kv hidden",
    "attn_qkv": "qkv hidden", "attn_output": "hidden q", "attn_q_norm": "head", "attn_k_norm": "head",
    "post_attention_norm": "hidden", "ffn_norm": "hidden", "post_ffw_norm": "hidden", "ffn_gate": "inner hidden",
    "ffn_up": "inner hidden", "ffn_down": "hidden inner", "ffn_gate_inp": "experts hidden",
    "ffn_gate_exps": "experts expert hidden", "ffn_up_exps": "experts expert hidden",
    "ffn_down_exps": "experts hidden expert", "token_embd": "rows hidden", "position_embd": "context hidden",
    "output_norm": "hidden", "output": "rows hidden",
}  # fmt: skip
"""Row-major, of weights; a bias has the first side. ``gguf_tensors.py`` has the words."""

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
WHOLE_NORMS = {"attn_q_norm": "q", "attn_k_norm": "kv"}
PAIRS = {"attn_q": "query pairs", "attn_k": "key pairs"}
QKV = ("attn_q", "attn_k", "attn_v")
OUTPUT_NORMS = {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
GEMMA_NORMS = dict.fromkeys(
    ("attn_norm", "attn_q_norm", "attn_k_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "output_norm"),
    "one more",
)
GEMMA_LAYER = {**LAYER, **OUTPUT_NORMS}
OLMO_LAYER = {name: theirs for name, theirs in GEMMA_LAYER.items() if name not in ("attn_norm", "ffn_norm")} | QK_NORMS
PHI_LAYER = {
    "attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NEOX_LAYER = {
    "attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}  # fmt: skip
GPT2_LAYER = {
    "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
MIXTURE_LAYER = {name: theirs for name, theirs in {**LAYER, **QK_NORMS}.items() if not theirs.startswith("mlp.")} | {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.{}.gate_proj", "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}  # fmt: skip
ALL_KINDS = ("linear", "yarn", "llama3")  # others read no rope_freqs, and end over a file that has it
LAYER_NORM = "attention.layer_norm_epsilon"
SILU, GELU = {"hidden_act": "silu"}, {"hidden_activation": "gelu_pytorch_tanh"}
FINAL_CAP = Entry("final_logit_softcapping", "final_logit_softcapping", float, "none")

FAMILIES: Mapping[str, GGUFFamily] = {
    "llama": GGUFFamily(
        "llama", "LlamaForCausalLM", "llama", LAYER, TOP, forms=PAIRS, biased=(*QKV, "attn_output"),
        rope_kinds=ALL_KINDS, fixed=SILU,
    ),
    "mistral": GGUFFamily(  # is read as Llama
        "llama", "MistralForCausalLM", "mistral", LAYER, TOP, forms=PAIRS, rope_kinds=ALL_KINDS, fixed=SILU
    ),
    "qwen2": GGUFFamily(
        "qwen2", "Qwen2ForCausalLM", "qwen2", LAYER, TOP, biased=QKV, always_biased=True, fixed=SILU
    ),
    "qwen3": GGUFFamily("qwen3", "Qwen3ForCausalLM", "qwen3", {**LAYER, **QK_NORMS}, TOP, fixed=SILU),
    "qwen3_moe": GGUFFamily(
        "qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", MIXTURE_LAYER, TOP,
        forms=dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), STACKED),
        entries=(
            Entry("expert_count", "num_experts"), Entry("expert_used_count", "num_experts_per_tok"),
            Entry("expert_feed_forward_length", "moe_intermediate_size"),
        ),
        fixed={**SILU, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "gemma2": GGUFFamily(
        "gemma2", "Gemma2ForCausalLM", "gemma2", GEMMA_LAYER, TOP, forms=GEMMA_NORMS, rope_kinds=(), fixed=GELU,
        entries=(
            Entry("attn_logit_softcapping", "attn_logit_softcapping", float, 50.0), FINAL_CAP._replace(default=30.0),
        ),
        every=2, window=4096, largest=46, scored=True,
    ),
    "gemma3": GGUFFamily(
        "gemma3", "Gemma3ForCausalLM", "gemma3_text", {**GEMMA_LAYER, **QK_NORMS}, TOP, forms=GEMMA_NORMS,
        rope_kinds=("linear",), fixed=GELU, entries=(FINAL_CAP,), every=6, largest=62, scored=True, rope_by_layer=True,
        window_theta=10000.0,
    ),
    "phi3": GGUFFamily(
        "phi3", "Phi3ForCausalLM", "phi3", PHI_LAYER, TOP, shapes={"ffn_up": "both hidden"}, rope_kinds=("longrope",),
        share_key="partial_rotary_factor", one_window=True, fixed=SILU,
    ),
    "olmo2": GGUFFamily(
        "olmo2", "Olmo2ForCausalLM", "olmo2", OLMO_LAYER, TOP, shapes=WHOLE_NORMS, fixed=SILU
    ),
    "olmo3": GGUFFamily(  # a file of olmo2 with a window
        "olmo2", "Olmo3ForCausalLM", "olmo3", OLMO_LAYER, TOP, shapes=WHOLE_NORMS, fixed=SILU, every=4, pattern=True,
        rope_by_layer=True,
    ),
    "smollm3": GGUFFamily(
        "smollm3", "SmolLM3ForCausalLM", "smollm3", LAYER, TOP, forms=PAIRS, fixed={**SILU, "no_rope_layer_interval": 4}
    ),
    "granite": GGUFFamily(
        "granite", "GraniteForCausalLM", "granite", LAYER, TOP, forms=PAIRS, rope_kinds=ALL_KINDS, fixed=SILU,
        entries=(
            Entry("attention.scale", "attention_multiplier", float, "usual scale"),
            Entry("embedding_scale", "embedding_multiplier", float, 1.0),
            Entry("residual_scale", "residual_multiplier", float, 1.0), Entry("logit_scale", "logits_scaling", float),
        ),
    ),
    "gpt_neox": GGUFFamily(
        "gptneox", "GPTNeoXForCausalLM", "gpt_neox", NEOX_LAYER,
        {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
        "gpt_neox.layers.", forms={"attn_qkv": "head by head"}, biased=(*NEOX_LAYER, "output_norm"), always_biased=True,
        norm_eps=LAYER_NORM, names={"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": "layer_norm_eps"},
        entries=(Entry("use_parallel_residual", "use_parallel_residual", bool),), fixed={"hidden_act": "gelu"},
        spoken=("hidden_act",), theta_key="rotary_emb_base", share_key="rotary_pct",
    ),
    "gpt2": GGUFFamily(
        "gpt2", "GPT2LMHeadModel", "gpt2", GPT2_LAYER,
        {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
         "output": "lm_head"},
        "transformer.h.", forms=dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), "transposed"),
        biased=(*GPT2_LAYER, "output_norm"), always_biased=True, norm_eps=LAYER_NORM,
        names={"num_key_value_heads": None, "head_dim": None, "rms_norm_eps": "layer_norm_epsilon",
               "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
               "max_position_embeddings": "n_positions", "intermediate_size": "n_inner"},
        fixed={"activation_function": "gelu_new"}, rope_kinds=None,
    ),
}  # fmt: skip
"""By the family here. Of several with one architecture files are read as the first, olmo3 apart."""
