"""Under whose rules a model is measured: attention kernel, dropout, padding, and the software of the paper's time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch.fx.experimental import _config
from torch.nn import functional

from replica.errors import ConfigError
from replica.models.architectures import architecture


@contextmanager
def attention(model: nn.Module, name: str) -> Iterator[None]:
    """Run the model with another attention implementation of transformers ("eager", "sdpa"), and put the old one back."""
    configs = {
        id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


@contextmanager
def steady(model: nn.Module) -> Iterator[None]:
    """Run the model in this block so that shapes alone decide, not chance or values; then restore everything.

    Where a mask selects values on the meta device (ELECTRA's loss), it selects all: every token is real.
    Layer drop and SpecAugment (wav2vec 2.0) are off. Every example of Longformer has one global token, as its classifier sets.
    BigBird, which turns to full attention for good on a short batch, is set back to its blocks.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", "")
    with ExitStack() as stack:
        stack.enter_context(patch.object(_config, "meta_nonzero_assume_all_nonzero", True))
        for name, value in (("layerdrop", 0.0), ("apply_spec_augment", False)):
            if hasattr(config, name):
                stack.enter_context(patch.object(config, name, value))
        if kind == "longformer":
            from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

            indices = staticmethod(_one_global_token)
            stack.enter_context(patch.object(LongformerSelfAttention, "_get_global_attn_indices", indices))
        if kind == "big_bird":
            stack.callback(_set_attention_type, model.base_model, model.base_model.attention_type)
        yield


def notes(model: nn.Module) -> list[str]:
    """Return the assumptions of an architecture's measurement beyond the meters' own."""
    config = model.config
    note = architecture(config.model_type).note
    lines = [note] if note else []
    if config.model_type == "big_bird":
        shortest = (5 + 2 * config.num_random_blocks) * config.block_size
        lines.append(f"blocks of {config.block_size}; full attention up to {shortest} tokens, as transformers does")
    if config.model_type == "nystromformer" and config.num_landmarks == config.segment_means_seq_len:
        lines.append("full attention, as transformers runs it while segment_means_seq_len equals num_landmarks")
    if getattr(model, "main_input_name", "") == "pixel_values":
        lines.append("images of the configuration's size (224 where it has none); length is not used")
    if type(model).__name__.endswith("ForCTC"):
        lines.append("the sum of the logits stands for the CTC loss")
    return lines


@contextmanager
def scan_at_once(model: nn.Module) -> Iterator[None]:
    """Let Mamba's scan make the output of all tokens in one product, for counting: the same products, not the same values.

    Step by step, as transformers runs it, a pass over 128 tokens takes thousands of operations.
    """
    if getattr(getattr(model, "config", None), "model_type", "") != "mamba":
        yield
        return
    from transformers.models.mamba import modeling_mamba

    with patch.object(modeling_mamba, "mamba_selective_scan", _scan_at_once):
        yield


def _scan_at_once(x, dt, a, b, c, D=None, z=None, delta_bias=None, return_last_state=False, **_):
    """Shapes and products of the scan of x and dt (batch, inner, length), a (inner, state), b and c (batch, state, length)."""
    dt = dt if delta_bias is None else dt + delta_bias[..., None]
    inputs = (dt * x)[..., None] * b.transpose(1, 2)[:, None]
    states = torch.exp(a[None, :, None, :] * dt[..., None]) + inputs
    output = (states.transpose(1, 2) @ c.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    output = output if D is None else output + x * D[None, :, None]
    output = output if z is None else output * z
    return (output, states[:, :, -1]) if return_last_state else output


def _one_global_token(is_global: torch.Tensor) -> tuple:
    """Return the values that Longformer derives from a mask (batch, length) in which only the first token of each example is global."""
    rows = torch.arange(is_global.shape[0], device=is_global.device)
    none = rows[:0]
    return 1, (rows, torch.zeros_like(rows)), (rows, torch.zeros_like(rows)), (none, none)


def _set_attention_type(body: nn.Module, kind: str) -> None:
    if body.attention_type != kind:
        body.set_attention_type(kind)


@contextmanager
def rules(model: nn.Module, kernel: str = "eager", *, dropout: bool = True, era: str = "today") -> Iterator[None]:
    """Measure inside this block under named rules.

    `kernel`: "eager" materialises the attention matrix; "fused" keeps query, key, value, output and one fp32 log-sum a row, as
    the memory-efficient CUDA kernels do. `dropout`: as a GPU does it (one byte a value kept for backward), or off.
    `era`: "2021" makes softmax keep its input as well as its output and T5's decoder keep its keys and values (torch < 1.12,
    transformers 4); gradients zeroed in place belong to it too, and are the training step's business.
    Attributes are patched, because a `TorchFunctionMode` is not active while checkpointing recomputes.
    Raises ConfigError for the fused kernel where the architecture has none.
    """
    if kernel == "fused" and not getattr(model, "_supports_sdpa", True):
        raise ConfigError(
            f"attention fused: architecture '{model.config.model_type}' has no fused attention; use eager"
        )
    with ExitStack() as stack:
        stack.enter_context(steady(model))
        stack.enter_context(attention(model, "sdpa" if kernel == "fused" else "eager"))
        stack.enter_context(patch.object(functional, "dropout", _gpu_dropout if dropout else _no_dropout))
        if kernel == "fused":
            stack.enter_context(patch.object(functional, "scaled_dot_product_attention", _fused_attention))
        if era == "2021":
            stack.enter_context(patch.object(functional, "softmax", _softmax_2021))
            stack.enter_context(_decoder_cache(model))
        yield


@contextmanager
def autocasting(dtype: torch.dtype) -> Iterator[None]:
    """Run the forward pass in this block in mixed precision, as `torch.autocast("cuda", dtype)` does; for the meta device.

    `torch.autocast` has no rules for meta. On CUDA, products with weights, `torch.matmul` and attention take their
    inputs in `dtype`, softmax, normalisation and cross-entropy take theirs in fp32, everything else takes the wider type of
    its inputs. A trained fp32 weight is cast once and the copy kept to the end of the block; any other value is cast each time.
    """
    low_copies: dict[int, torch.Tensor] = {}

    def low(value):
        if not (isinstance(value, torch.Tensor) and value.dtype == torch.float32):
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in low_copies:
            low_copies[id(value)] = value.to(dtype)
        return low_copies[id(value)]

    def high(value):
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == dtype else value

    def casting(function, cast):
        def call(*arguments, **options):
            return function(*map(cast, arguments), **{name: cast(value) for name, value in options.items()})

        return call

    with ExitStack() as stack:
        for cast, places in (
            (low, ((functional, "linear"), (functional, "scaled_dot_product_attention"), (torch, "matmul"))),
            (high, ((functional, "softmax"), (functional, "layer_norm"), (functional, "cross_entropy"))),
        ):
            for place, name in places:
                stack.enter_context(patch.object(place, name, casting(getattr(place, name), cast)))
        yield
        low_copies.clear()


def _gpu_dropout(input, p=0.5, training=True, inplace=False):
    """`F.dropout` as CUDA runs it: a boolean mask is kept, where the CPU keeps a float one."""
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


def _no_dropout(input, p=0.5, training=True, inplace=False):
    return input


def _fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    bias = None
    if attn_mask is not None:
        bias = attn_mask if attn_mask.is_floating_point() else attn_mask.to(query.dtype)
    return _FusedAttention.apply(query, key, value, bias)


class _FusedAttention(torch.autograd.Function):
    """Shapes and saved tensors of a memory-efficient attention kernel on (batch, heads, length, head size); no values."""

    @staticmethod
    def forward(ctx, query, key, value, bias):
        batch, heads, length, _ = query.shape
        output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        logsumexp = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, logsumexp, *([] if bias is None else [bias]))
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, _, logsumexp, *bias = ctx.saved_tensors
        _delta = torch.empty_like(logsumexp)
        grads = [
            t.new_empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3]).transpose(1, 2) for t in (query, key, value)
        ]
        return (*grads, torch.empty_like(bias[0]) if bias and ctx.needs_input_grad[3] else None)


def _softmax_2021(input, dim=None, _stacklevel=3, dtype=None):
    return _SoftmaxKeepingInput.apply(input if dtype is None else input.to(dtype), dim)


class _SoftmaxKeepingInput(torch.autograd.Function):
    """Softmax whose backward keeps input and output, as torch did before 1.12."""

    @staticmethod
    def forward(ctx, input, dim):
        output = torch.softmax(input, dim)
        ctx.dim = dim
        ctx.save_for_backward(input, output)
        return output

    @staticmethod
    def backward(ctx, gradient):
        input, output = ctx.saved_tensors
        return torch._softmax_backward_data(gradient, output, ctx.dim, input.dtype), None


@contextmanager
def _decoder_cache(model: nn.Module) -> Iterator[None]:
    """Keep the outputs of a T5 decoder's key and value projections as long as the model's output lives, as `use_cache` did."""
    cached: list[torch.Tensor] = []
    handles = []

    def with_output(_model: nn.Module, _inputs: tuple, output: object) -> None:
        weakref.finalize(output, cached.clear)

    if architecture(getattr(model.config, "model_type", "")).family == "t5":
        handles.append(model.register_forward_hook(with_output))
        for name, module in model.named_modules():
            steps = name.split(".")
            if "decoder" in steps and steps[-1] in {"k", "v"} and isinstance(module, nn.Module):
                handles.append(module.register_forward_hook(lambda _m, _i, output: cached.append(output.detach())))
    try:
        yield
    finally:
        cached.clear()
        for handle in handles:
            handle.remove()
