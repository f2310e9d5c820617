"""Meters: what a model counts to, computes, stores and needs, measured on the meta device or on real tensors.

A paper's `measurements:` name meters with their options; results are nested dictionaries of plain numbers that claims reach by
dotted expressions, `<measurement>.<meter>.<key>…` (a `.` inside a key becomes `_`). Bytes are bytes, a MiB is 2**20, a GiB 2**30,
an MB 10**6, a GB 10**9. FLOPs count 2 per multiply-add, matrix products and convolutions only.

`parameters: {}` (`count_parameters(model)`; a tensor that several modules share counts once)
    total, trainable, frozen, trainable_share (of total), buffers, running_statistics (means and variances of batch norms)
    embeddings (words, positions, types, patches, stem, sound's convolutions, their norm), word_embeddings
    transformer (all encoder and decoder layers, without final norms, poolers and heads), encoder, decoder, layers (how many)
    layer_linears (matrices and convolutions in the layers, depthwise ones left out), layer_biases, layer_norms_in_layers,
    relative_attention_bias (T5)
    final_norms, pooler, head (what is not tied to an embedding), layer_norms (anywhere), biases (anywhere, those of norms left out)
    by_part: {word_embeddings, position_embeddings, other_embeddings, embedding_norms, layer_linears, layer_biases, layer_norms,
        layer_other, final_norms, pooler, head}; trainable_by_part: the same of the trainable ones
    in a measurement also: base_total (before the methods), added (total - base_total), expected: {method: what it expects}

`flops: {batch: 1, length: 128, decoder_length: null, backward: false, density: null}` (`measure_flops(model, batch, length, …)`)
    forward, backward (0 unless asked for), total, macs_forward (= forward / 2)
    transformer_forward (the layers), linear_forward (products with a matrix of weights), attention_forward (batched products of two
    activations), transformer_linear_forward, transformer_attention_forward, pooler_forward, head_forward, embeddings_forward
    (patches), other_forward; with `backward` the same ending in _backward
    by_part: {transformer, embeddings, pooler, head, other} of the forward pass
    `density: 0.1` (of layer_linears) or `{pattern: share}` adds sparse_forward, sparse_total: a masked matrix costs its share

`storage: {bits: {…}, default_bits: 32, density: {…}, index: none, scales: {…}, exclude: []}` (`storage_bytes(model, …)`)
    `bits`, `density`, `scales` map a part's name (above) or a glob over parameter names to a value; a later entry wins; one number
    means {layer_linears: number}. `scales: {layer_linears: tensor}` (or row) adds 32 bits for each. `index`: none, mask (1 bit a
    position of each matrix with density below 1), or a number of bits for each kept value.
    bytes, mib, mb, baseline_bytes (32 bits each), baseline_mib, baseline_mb, ratio, bits_per_parameter, parameters, stored_values
    transformer_bytes, transformer_baseline_bytes, transformer_ratio (everything in the layers)
    of the matrices of the layers: values_only_ratio, with_mask_ratio (plus one bit a position), and with the layers' biases and
    norms in fp32 on both sides: with_rest_ratio, with_mask_and_rest_ratio
    by_part: {part: {parameters, bytes, baseline_bytes}}

`optimizer: {rule: adamw, block: 2048, momentum: 0.9, all: false, dtype: float32, rank: null, projector: null}`
    (`optimizer_bytes(model, rule)`)
    rules: adamw, adamw8bit, sgd, adafactor, lion; with a `rank` also galore, galore8bit (the matrices of the layers projected; the
    type of their projectors is `projector`: float32, bfloat16, float16, int8, by default `dtype`, the type of a value of state)
    bytes, mib, gib, gb, bytes_per_parameter, parameters (whose state is kept), baseline_bytes (AdamW in `dtype`), saving (share
    saved), projected_parameters, projector_bytes (0 without GaLore)

`memory: {batch: 32, length: 128, decoder_length: null, optimizer: adamw, train: true, dtype: float32, attention: eager,
    dropout: true, padding: false, checkpointing: false, era: today, foreach: false, rank: null, projector: null,
    per_layer: false, all_states: false, autocast: null, rounding: 1, budget_gb: null}`
    (`measure_memory(model, batch, length, …)`; two training steps, or with train: false one forward pass)
    `attention`: eager | fused. `era`: today | 2021 (T5's decoder keeps keys and values, softmax also saves its input, gradients
    stay allocated between steps). `optimizer: null` stops after the backward pass. `per_layer: true` updates each parameter as
    soon as its gradient is complete and frees the gradient. `autocast: bfloat16` runs the forward pass in mixed precision, weights
    in `dtype`. `rounding: 512` rounds every storage up as torch's CUDA allocator does.
    `all_states: true`: optimizer state exists for frozen parameters too, as where each has been trained once.
    `length` counts frames of 20 ms for sound; images have none.
    peak, peak_gib, peak_gb, peak_mb, peak_phase (text), batch, per_example (= peak / batch), per_example_mb
    at_peak: {parameter, buffer, input, forward, backward, gradient, optimizer} (bytes of each when the peak is reached)
    by_category: {the same names: the largest that each was at any time}, saved_bytes (kept for backward, once a storage)
    with `budget_gb`: largest_batch (whose peak fits), at_largest: {peak, peak_gb, per_example, per_example_mb}

`count_operations(model, density, …)` counts a forward pass as the MicroNet challenge did, with the additions and ReLUs of outputs, which
never become sparse: `flops`, `sparse_flops`. Methods that take `padded_twice` in `method_cost` give it as `micronet`.

`method_cost: {…}`: <method>: {expected: {…}, … what the method's `cost(model, **options)` gives}
`config: {total_steps: null}`: <method>: {field: value …, schedule: {… what the method's `schedule(total_steps)` returns}},
    model: {… numbers of its configuration}. In both, the keys of a measurement's only method also stand at the top.

A measurement that names a `dataset` (or several, counted as one) instead of a `model` has one meter:

`rows: {splits: [], counts: {name: {where: {column: value | [values] | {empty: bool}}, distinct: …, each: word, sum: …, by: …}}}`
    (`count_rows(splits, options)`; streamed, the registry's pins checked, nothing stored but numbers)
    by split, and under `all` where there are several: rows, and each count: rows under its conditions, distinct values of a column
    (or of columns together, or words of a text), the sum of a column, or nested numbers by the values of columns (`null` for none)
    Data comes from assets/datasets/<name> where it was retrieved, else from the mirror, a generator or a package, never from a
    network. Where a split is not at hand whole the measurement is {unavailable: reason}, and its claims are not-run with that reason;
    when the files come, the paper is measured again.

`linear_path: {points: 30}` (`measure_path(model, points)`: the line between two states of the model, a forward pass at each point)
    evaluations, first_alpha, last_alpha, step, interpolated (numbers that move), state_bytes (of a point), stable_below and
    matching_within (points of error at which the rules stop to hold)

`search_space: {ranges: {name: [lowest, highest, step]}}` (`measure_space(ranges)`; the measured model does not matter)
    count (closed form), enumerated (one by one), values: {name: how many}; for layers, hidden, ratio and heads also
    encoder_parameters, encoder_macs (128 tokens): {least, most} over all shapes

For real models: `latency(model_or_callable, batch, length, …)` gives median_ms, mean_ms, p10_ms, p90_ms, samples_per_second, runs,
threads, device; `count_nonzero(model)` gives total, nonzero, density, sparsity, by_part; `file_bytes(path)`.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "count_parameters": "parameters",
    "count_nonzero": "parameters",
    "measure_flops": "flops",
    "count_operations": "micronet",
    "storage_bytes": "storage",
    "file_bytes": "storage",
    "optimizer_bytes": "optimizers",
    "measure_memory": "memory",
    "latency": "timing",
    "count_rows": "rows",
    "measure_path": "linear_path",
    "measure_space": "search_space",
    "measure_paper": "structural",
    "parse_meters": "registry",
    "METERS": "registry",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a meter when it is first asked for: the names are known without torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'replica.meters' has no attribute '{name}'")
    return getattr(importlib.import_module(f"replica.meters.{_WHERE[name]}"), name)
