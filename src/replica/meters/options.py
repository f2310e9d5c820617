"""The options of every meter, checked without torch, and the keys of its results.

A paper's `measurements:` name meters with their options. Results are nested dictionaries of plain numbers that claims read by
dotted names, `<measurement>.<meter>.<key>`; a `.` inside a key becomes `_`. Bytes are bytes, a MiB is 2**20, a GiB 2**30, an MB
10**6 and a GB 10**9. FLOPs count 2 per multiply-add, for matrix products and convolutions only.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from replica.config.strict import Count, Strict

Share = Annotated[float, Field(gt=0, le=1)]
Bits = Annotated[float, Field(gt=0)]
Rule = Literal["adamw", "adamw8bit", "sgd", "adafactor", "lion", "galore", "galore8bit"]
Projector = Literal["float32", "bfloat16", "float16", "int8"]
Dtype = Literal["float32", "bfloat16", "float16"]

#: The parts of a model to which parameters belong, in the order in which results list them.
PARTS = (
    "word_embeddings", "position_embeddings", "other_embeddings", "embedding_norms", "layer_linears", "layer_biases",
    "layer_norms", "layer_other", "final_norms", "pooler", "head",
)  # fmt: skip
#: The parts of a forward pass, for FLOPs.
FLOP_PARTS = ("transformer", "embeddings", "pooler", "head", "other")
#: The counts that a method may expect of a prepared model.
EXPECTED = ("trainable_parameters", "total_parameters", "nonzero_parameters", "storage_bits")
#: The kinds of tensors that fill memory.
CATEGORIES = ("parameter", "buffer", "input", "forward", "backward", "gradient", "optimizer")


#: Most shapes of a search space, which are looked at one by one.
MOST_SHAPES = 1_000_000


class Options(Strict):
    """Base of every meter's options.

    `assumption` is stored with the results. `results` maps the key of each number to its meaning: `<part>` is each of the parts
    of a model, `<method>` each method of the measurement, `<field>` each field of its configuration, and `*` any key or keys below.
    """

    assumption: ClassVar[str]
    results: ClassVar[dict[str, str]]

    def result_keys(self) -> list[str]:
        """Return the keys of the results that these options give."""
        return list(self.results)


class ParametersOptions(Options):
    """`parameters` has no options."""

    assumption = "a tensor that several modules share counts once"
    results = {
        "total": "all parameters",
        "trainable": "those that are trained",
        "frozen": "those that are not",
        "trainable_share": "share of the total",
        "buffers": "numbers in buffers",
        "running_statistics": "means and variances of batch norms, which are buffers",
        "embeddings": "words, positions, types, patches, stem, the convolutions of sound, and their norm",
        "word_embeddings": "the matrix of words",
        "transformer": "all encoder and decoder layers, without final norms, poolers and heads",
        "encoder": "all layers of the encoder",
        "decoder": "all layers of the decoder",
        "layers": "the number of layers",
        "layer_linears": "matrices and convolutions in the layers, without depthwise convolutions",
        "layer_biases": "biases in the layers, without those of norms",
        "layer_norms_in_layers": "norms in the layers",
        "relative_attention_bias": "T5's position biases",
        "final_norms": "norms after the last layer",
        "pooler": "the pooler",
        "head": "the head, without a matrix that is tied to the embedding",
        "layer_norms": "all norms",
        "biases": "all biases, without those of norms",
        "by_part.<part>": "parameters of each part",
        "trainable_by_part.<part>": "trainable parameters of each part",
        "base_total": "parameters before the methods changed the model",
        "added": "total - base_total",
        **{f"expected.<method>.{key}": f"{key} that a method expects" for key in EXPECTED},
    }


class FlopsOptions(Options):
    """The options of `measure_flops`."""

    assumption = "2 per multiply-add; matrix products and convolutions only; eager attention; no padding"
    results = {
        "forward": "FLOPs of a forward pass",
        "backward": "FLOPs of the backward pass, 0 without `backward`",
        "total": "forward + backward",
        "macs_forward": "forward / 2",
        "linear_<phase>": "products with a matrix of weights",
        "attention_<phase>": "batched products of two activations",
        "transformer_linear_<phase>": "products with weights in the layers",
        "transformer_attention_<phase>": "products of two activations in the layers",
        **{f"{part}_<phase>": f"FLOPs of this part ({part})" for part in FLOP_PARTS},
        "by_part.<flop_part>": "the forward pass by part",
        "sparse_forward": "with `density`: forward, where a masked matrix costs its share",
        "sparse_total": "with `density`: total, where a masked matrix costs its share",
    }

    batch: Count = Field(1, description="examples in a step")
    length: Count = Field(128, description="tokens in an example, frames of 20 ms for sound; images have none")
    decoder_length: Count | None = Field(None, description="tokens of an encoder-decoder model's labels")
    backward: bool = Field(False, description="also count the backward pass")
    density: Share | dict[str, Share] | None = Field(
        None, description="share of a matrix's values that is kept, by part or glob; a number means layer_linears"
    )

    def result_keys(self) -> list[str]:
        """Return the keys for the phases that are counted, and the sparse ones where there is a density."""
        phases = ("forward", "backward") if self.backward else ("forward",)
        keys = [key for key in self.results if self.density is not None or not key.startswith("sparse_")]
        return [key.replace("<phase>", phase) for key in keys for phase in (phases if "<phase>" in key else phases[:1])]


class StorageOptions(Options):
    """The options of `storage_bytes`. Where several keys of a mapping fit a parameter, the last one counts."""

    assumption = "1 byte is 8 bits, nothing is aligned; 32 bits is the baseline"
    results = {
        **dict.fromkeys(("bytes", "mib", "mb"), "stored size"),
        **dict.fromkeys(("baseline_bytes", "baseline_mib", "baseline_mb"), "size at 32 bits a value"),
        "ratio": "baseline_bytes / bytes",
        "bits_per_parameter": "8 * bytes / parameters",
        "parameters": "parameters that are counted",
        "stored_values": "values that are kept",
        "transformer_bytes": "stored size of the layers",
        "transformer_baseline_bytes": "the layers at 32 bits a value",
        "transformer_ratio": "their ratio",
        "values_only_ratio": "of the layers' matrices: 32 / (density * bits)",
        "with_mask_ratio": "the same with one more bit for each position",
        "with_rest_ratio": "values_only_ratio, with the layers' biases and norms at 32 bits on both sides",
        "with_mask_and_rest_ratio": "with_mask_ratio, with the layers' biases and norms at 32 bits on both sides",
        **{f"by_part.<part>.{key}": f"{key} of each part" for key in ("parameters", "bytes", "baseline_bytes")},
    }

    bits: Bits | dict[str, Bits] | None = Field(
        None, description="bits of a value, by part or glob over names of parameters; a number means layer_linears"
    )
    default_bits: float = Field(32, gt=0, description="bits of every other value")
    density: Share | dict[str, Share] | None = Field(None, description="share of values that is kept, by part or glob")
    index: Literal["none", "mask"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "none",
        description="cost of finding the kept values: none, mask (1 bit a position), or bits for each kept value",
    )
    scales: dict[str, Literal["tensor", "row"]] | None = Field(
        None, description="by part or glob: 32 bits more for each tensor or row"
    )
    exclude: list[str] = Field([], description="parts or globs that are left out, also of the baseline")


class OptimizerOptions(Options):
    """The options of `optimizer_bytes`."""

    assumption = "state in `dtype` unless the rule says otherwise; step counters not counted"
    results = {
        **dict.fromkeys(("bytes", "mib", "gib", "gb"), "size of the state"),
        "bytes_per_parameter": "bytes / parameters",
        "parameters": "parameters that have state",
        "baseline_bytes": "AdamW's state in `dtype`",
        "saving": "share of the baseline that is saved",
        "projected_parameters": "parameters that GaLore projects",
        "projector_bytes": "size of GaLore's projectors",
    }

    rule: Rule = Field("adamw", description="the optimizer")
    block: Count = Field(2048, description="values that share one scale in 8-bit state")
    momentum: float = Field(0.9, ge=0, description="momentum of sgd; 0 needs no state")
    all: bool = Field(False, description="state for all parameters, not only the trainable ones")
    dtype: Dtype = Field("float32", description="type of a value of state that is not quantised")
    rank: Count | None = Field(None, description="GaLore's rank; its rules need one")
    projector: Projector | None = Field(None, description="type of GaLore's projectors; `dtype` when absent")

    @model_validator(mode="after")
    def _rank_of_galore(self) -> OptimizerOptions:
        check_rank(self.rule, self.rank, self.projector)
        return self


class MemoryOptions(Options):
    """The options of `measure_memory`: two training steps, or with `train: false` one forward pass."""

    assumption = (
        "live tensor storages of two training steps; no kernel workspaces, allocator rounding or device context"
    )
    results = {
        **dict.fromkeys(("peak", "peak_gib", "peak_gb", "peak_mb"), "largest sum of live bytes"),
        "peak_phase": "the phase in which the peak is reached (text)",
        "batch": "examples in the step",
        "per_example": "peak / batch, in bytes",
        "per_example_mb": "the same in MB",
        "at_peak.<category>": "bytes of each kind when the peak is reached",
        "by_category.<category>": "the largest that each kind was at any time",
        "saved_bytes": "bytes kept for the backward pass, each storage once",
        "largest_batch": "with `budget_gb`: the largest batch whose peak fits",
        **{
            f"at_largest.{key}": f"with `budget_gb`: {key} of the largest batch"
            for key in ("peak", "peak_gb", "per_example", "per_example_mb")
        },
    }

    batch: Count = Field(32, description="examples in a step")
    length: Count = Field(128, description="tokens in an example, frames of 20 ms for sound; images have none")
    decoder_length: Count | None = Field(None, description="tokens of the decoder; 128 when absent")
    optimizer: Rule | None = Field("adamw", description="the optimizer; null stops after the backward pass")
    train: bool = Field(True, description="two training steps; false: one forward pass without gradients")
    dtype: Dtype = Field("float32", description="type of weights, gradients and state")
    attention: Literal["eager", "fused"] = Field(
        "eager", description="eager materialises the attention matrix, fused does not (memory-efficient kernels)"
    )
    dropout: bool = Field(True, description="dropout as a GPU runs it, with a mask of one byte a value; or off")
    padding: bool = Field(False, description="batches have padding, so that masks are materialised")
    checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    era: Literal["today", "2021"] = Field(
        "today",
        description="rules of the software: in 2021 T5's decoder kept keys and values, softmax also saved its input, and gradients "
        "stayed allocated between steps",
    )
    foreach: bool = Field(False, description="grouped updates, torch's default on CUDA; they need temporaries")
    rank: Count | None = Field(None, description="GaLore's rank; its rules need one")
    projector: Projector | None = Field(None, description="type of GaLore's projectors; `dtype` when absent")
    per_layer: bool = Field(
        False, description="update each parameter when its gradient is complete, and free the gradient"
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None, description="forward pass in mixed precision, with weights in `dtype`"
    )
    rounding: Count = Field(1, description="bytes to which every storage is rounded up; 512 on CUDA")
    all_states: bool = Field(
        False, description="optimizer state exists for frozen parameters too, as where each was trained once"
    )
    budget_gb: float | None = Field(None, gt=0, description="GB (10**9) that the largest batch must fit in")

    @model_validator(mode="after")
    def _combinations(self) -> MemoryOptions:
        check_rank(self.optimizer, self.rank, self.projector)
        if self.autocast and self.checkpointing:
            raise ValueError("autocast is not emulated where checkpointing recomputes; use one of them")
        if self.all_states and self.rank is not None:
            raise ValueError(f"all_states is not known for optimizer {self.optimizer}; use a rule without rank")
        return self

    def result_keys(self) -> list[str]:
        """Return the keys, those of the largest batch only where there is a budget."""
        return [key for key in self.results if self.budget_gb is not None or "largest" not in key]


class MethodCostOptions(Options):
    """`method_cost` passes every option to the methods' `cost(model, **options)`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    assumption = "as each method's `expected` and `cost` say"
    results = {
        "<method>.expected.<count>": "the counts that the method expects",
        "<method>.<cost>": "the results of the method's `cost`; of a measurement's only method also without its name",
    }


class ConfigOptions(Options):
    """The options of `config`: numbers of the configurations of model and methods."""

    assumption = "the methods' configuration as it is run"
    results = {
        "model.*": "numbers of the model's configuration",
        "<method>.<field>": "fields of the method's configuration; of a measurement's only method also without its name",
        "<method>.<field>.*": "entries of a field that is a list or a mapping",
        "<method>.schedule.*": "with `total_steps`: the method's schedule",
    }

    total_steps: Count | None = Field(None, description="steps of the training whose schedule is computed")

    def result_keys(self) -> list[str]:
        """Return the keys, those of a schedule only for a number of steps."""
        return [key for key in self.results if self.total_steps is not None or ".schedule." not in key]


class LinearPathOptions(Options):
    """The options of `measure_path`: the line between two states of the model, with a forward pass at each point."""

    assumption = "one forward pass a point; running statistics are interpolated as weights are"
    results = {
        "evaluations": "forward passes",
        "first_alpha": "the first point on the line",
        "last_alpha": "the last point on the line",
        "step": "distance of two points",
        "interpolated": "numbers that move along the line",
        "state_bytes": "bytes of one point",
        "stable_below": "the least instability, in points of error, of a network that is not stable",
        "matching_within": "the least rise of error, in points, of a subnetwork that does not match",
    }

    points: int = Field(
        30, ge=2, le=100_000, description="evenly spaced points on the line between two states, with both ends"
    )


class SearchSpaceOptions(Options):
    """The options of `measure_space`; the model of the measurement does not matter."""

    assumption = "every number takes each of its values with each of the others; heads cost a twelfth of the width"
    results = {
        "count": "shapes, in closed form",
        "enumerated": "shapes, counted one by one",
        "values.<range>": "values of each number",
        "encoder_parameters.<extreme>": "of layers, hidden, ratio and heads: least and most parameters",
        "encoder_macs.<extreme>": "of layers, hidden, ratio and heads: least and most multiply-adds of 128 tokens",
    }

    ranges: dict[str, tuple[float, float, float]] = Field(description="number of a shape: its lowest, highest and step")

    @model_validator(mode="after")
    def _shapes_that_can_be_counted(self) -> SearchSpaceOptions:
        shapes = 1.0
        for name, (low, high, step) in self.ranges.items():
            if step <= 0 or high < low:
                raise ValueError(f"'{name}' does not go from {low:g} to {high:g} by {step:g}")
            shapes *= (high - low) / step + 1
        if shapes > MOST_SHAPES:
            raise ValueError(f"the ranges make {shapes:.3g} shapes, and at most {MOST_SHAPES} are looked at one by one")
        return self

    def result_keys(self) -> list[str]:
        """Return the keys for these ranges; costs are known of an encoder's shapes alone."""
        keys = ["count", "enumerated", *(f"values.{name}" for name in self.ranges)]
        if set(self.ranges) == {"layers", "hidden", "ratio", "heads"}:
            keys += [f"encoder_{cost}.{extreme}" for cost in ("parameters", "macs") for extreme in ("least", "most")]
        return keys


def check_rank(rule: str | None, rank: int | None, projector: str | None) -> None:
    """Raise ValueError for a rule of GaLore without a rank, and for a rank or projector of a rule that has none."""
    low_rank = rule is not None and rule.startswith("galore")
    if low_rank and rank is None:
        raise ValueError(f"{rule} needs its `rank`, e.g. rank: 128")
    option = "rank" if rank is not None else "projector" if projector is not None else None
    if not low_rank and option:
        raise ValueError(f"`{option}` belongs to galore and galore8bit; {rule or 'no optimizer'} has none")
