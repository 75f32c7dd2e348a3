"""What the tests of the local tier share: a real model, tiny made-up ones, and ways to ask them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tieredllm.errors import ModelFileError
from tieredllm.files import Places
from tieredllm.local.catalog import load_catalog
from tieredllm.local.pull import Puller
from tieredllm.profile.schema import Params
from tieredllm.providers.base import Call, Delta, Finish
from tieredllm.providers.llama_cpp import LlamaCppBackend
from tieredllm.types import Message, Prompt

CACHE = Path("~/.cache/tieredllm-tests").expanduser()
GEMMA_TEMPLATE = (  # google/gemma-2-2b-it, tokenizer_config.json
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
LETTERS = [f"▁{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def smollm2() -> Path:
    """Give the real small model, pulled with the tool's own code the first time."""
    model = load_catalog()["smollm2-135m"]
    path = CACHE / model.file
    if not path.exists():
        try:
            Puller(CACHE).catalog(model)
        except ModelFileError as exc:
            pytest.skip(f"the real model is not here and cannot be pulled: {exc}")
    return path


def places(root: Path) -> Places:
    """Give the four directories below a root."""
    return Places(
        config=root / "config", data=root / "data", state=root / "state", cache=root / "cache"
    )


def pretend_tried(path: Path, root: Path) -> None:
    """Remember for the places below a root that a file was tried and found good."""
    from tieredllm.local.gguf import read_header
    from tieredllm.local.ladder import Rates, Trial
    from tieredllm.local.validate import _stamp
    from tieredllm.local.validation_cache import ValidationCache, Verdict, state_of

    rates = Rates(load_s=0.1, prompt_tps=500.0, decode_tps=100.0)
    verdict = Verdict(
        state=state_of(path),
        header=read_header(path),
        stamp=_stamp(None),
        trials=tuple(Trial(rung=rung, rates=rates) for rung in ("plain", "repacked")),
    )
    ValidationCache(places(root).cache).put(path, verdict)


def as_tried(path: Path, root: Path) -> None:
    """Give the places below a root what a real trial of a file found, once for all tests."""
    from tieredllm.local.ladder import SESSION
    from tieredllm.local.validate import validate_model
    from tieredllm.local.validation_cache import ValidationCache, state_of

    found = ValidationCache(CACHE)
    validate_model(path, n_ctx=512, verdicts=found, job=SESSION)
    ValidationCache(places(root).cache).put(path, found.get(path, state_of(path)))


def backend(
    model: Path | str,
    root: Path,
    *,
    context_tokens: int = 2048,
    keep_contexts: bool = False,
    tried: bool = True,
) -> LlamaCppBackend:
    """Make a backend with places of its own, where the real model has been `tried` already."""
    if tried and Path(model).parent == CACHE and Path(model).exists():
        as_tried(Path(model), root)
    return LlamaCppBackend(
        model=str(model),
        context_tokens=context_tokens,
        places=places(root),
        keep_contexts=keep_contexts,
    )


def call(*messages: Message, max_tokens: int = 8, **params: Any) -> Call:
    """Make a call that always has the same answer."""
    return Call(
        prompt=Prompt(question=messages[-1].content),
        messages=messages,
        params=Params(temperature=0.0, max_tokens=max_tokens, **params),
        connect_timeout_s=3.0,
        request_id="test",
    )


def user(text: str) -> Message:
    """Make a user's turn."""
    return Message("user", text)


async def answer(backend: LlamaCppBackend, made: Call) -> tuple[str, Finish]:
    """Collect an answer."""
    text = ""
    async for chunk in backend.answer(made):
        if isinstance(chunk, Delta):
            text += chunk.text
        elif isinstance(chunk, Finish):
            return text, chunk
    raise AssertionError("the answer had no end")


def write_gemma(
    path: Path,
    *,
    architecture: str = "gemma2",
    template: str | None = GEMMA_TEMPLATE,
    damaged: str | None = None,
    part_tensors: int = 0,
    extra: dict[str, Any] | None = None,
):
    """Write a tiny model of Gemma's architecture with random weights and a byte vocabulary.

    Args:
        path: where to.
        architecture: `gemma2`, `gemma3` or `gemma-embedding`.
        template: its chat template.
        damaged: a token whose weights are no numbers.
        part_tensors: split it into parts of so many tensors; their names end in
            `-00001-of-0000N.gguf`.
        extra: further keys of the header.
    """
    import gguf
    import numpy as np

    width, layers, heads, kv_heads, head, hidden = 64, 2, 2, 1, 32, 128
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=part_tensors)
    for key, value in (extra or {}).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.add_name("Tiny Gemma")
    writer.add_context_length(1024)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(512)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    tokens = _add_vocabulary(writer, template)
    rng = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        values = rng.normal(0.0, 0.3, shape) if len(shape) > 1 else np.ones(shape)
        if name == "token_embd":
            values[: len(tokens) - len(LETTERS)] *= 0.01  # so that it answers in letters
            if damaged is not None:
                values[tokens.index(damaged)] = np.nan
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    tensor("token_embd", len(tokens), width)
    tensor("output_norm", width)
    for layer in range(layers):
        block = f"blk.{layer}"
        tensor(f"{block}.attn_q", heads * head, width)
        tensor(f"{block}.attn_k", kv_heads * head, width)
        tensor(f"{block}.attn_v", kv_heads * head, width)
        tensor(f"{block}.attn_output", width, heads * head)
        tensor(f"{block}.ffn_gate", hidden, width)
        tensor(f"{block}.ffn_up", hidden, width)
        tensor(f"{block}.ffn_down", width, hidden)
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            tensor(f"{block}.{norm}", width)
        if architecture in {"gemma3", "gemma-embedding"}:
            tensor(f"{block}.attn_q_norm", head)
            tensor(f"{block}.attn_k_norm", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: Any, template: str | None) -> list[str]:
    """Add a vocabulary of bytes and letters to a model; give its tokens."""
    tokens = [*SPECIALS, *(f"<0x{n:02X}>" for n in range(256)), *LETTERS]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3, 3, 3, 2, 3, 3, *[6] * 256, *[1] * len(LETTERS)])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    return tokens


def write_recurrent(path: Path, architecture: str) -> Path:
    """Write a tiny model that carries a state from token to token, with random weights.

    Args:
        path: where to.
        architecture: `mamba` (nothing but that) or `lfm2` (with attention in every other layer).
    """
    import gguf
    import numpy as np

    width, hidden, head, convolution, state = 64, 128, 32, 3, 16
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"Tiny {architecture}")
    writer.add_context_length(1024)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    tokens = _add_vocabulary(writer, GEMMA_TEMPLATE)

    def tensor(name: str, *shape: int, suffix: str = ".weight") -> None:
        values = rng.normal(0.0, 0.3, shape) if len(shape) > 1 else np.ones(shape)
        if name == "token_embd":
            values[: len(tokens) - len(LETTERS)] *= 0.01  # so that it answers in letters
        if name.endswith("ssm_a"):
            values = -np.abs(values)
        writer.add_tensor(f"{name}{suffix}", values.astype(np.float32))

    tensor("token_embd", len(tokens), width)
    if architecture == "lfm2":
        writer.add_feed_forward_length(hidden)
        writer.add_head_count(width // head)
        writer.add_head_count_kv([0, 1])
        writer.add_shortconv_l_cache(convolution)
        tensor("token_embd_norm", width)
        tensor("blk.0.shortconv.conv", width, convolution)
        tensor("blk.0.shortconv.in_proj", 3 * width, width)
        tensor("blk.0.shortconv.out_proj", width, width)
        tensor("blk.1.attn_q", width, width)
        tensor("blk.1.attn_k", head, width)
        tensor("blk.1.attn_v", head, width)
        tensor("blk.1.attn_output", width, width)
        tensor("blk.1.attn_q_norm", head)
        tensor("blk.1.attn_k_norm", head)
        for block in ("blk.0", "blk.1"):
            tensor(f"{block}.attn_norm", width)
            tensor(f"{block}.ffn_norm", width)
            tensor(f"{block}.ffn_gate", hidden, width)
            tensor(f"{block}.ffn_up", hidden, width)
            tensor(f"{block}.ffn_down", width, hidden)
    else:
        rank = 4
        writer.add_ssm_conv_kernel(convolution + 1)
        writer.add_ssm_inner_size(hidden)
        writer.add_ssm_state_size(state)
        writer.add_ssm_time_step_rank(rank)
        tensor("output_norm", width)
        for block in ("blk.0", "blk.1"):
            tensor(f"{block}.attn_norm", width)
            tensor(f"{block}.ssm_in", 2 * hidden, width)
            tensor(f"{block}.ssm_conv1d", hidden, convolution + 1)
            tensor(f"{block}.ssm_conv1d", hidden, suffix=".bias")
            tensor(f"{block}.ssm_x", rank + 2 * state, hidden)
            tensor(f"{block}.ssm_dt", hidden, rank)
            tensor(f"{block}.ssm_dt", hidden, suffix=".bias")
            tensor(f"{block}.ssm_a", hidden, state, suffix="")
            tensor(f"{block}.ssm_d", hidden, suffix="")
            tensor(f"{block}.ssm_out", width, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
