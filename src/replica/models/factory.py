"""Models from a registered architecture: random by seed, on the meta device, or with retrieved weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from replica.errors import AssetError, ConfigError, nearest
from replica.files import read_json
from replica.models.heads import auto_class, check_head, is_head_key, output_count, supported_attention

if TYPE_CHECKING:
    from replica.config.asset_schema import ModelEntry

WEIGHTS = "model.safetensors"

#: Fields that every configuration takes although its defaults do not list them.
_EXTRA_FIELDS = ("num_labels", "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")

#: Sizes that a configuration may have, under the names that transformers maps others to.
_SIZES = (
    "hidden_size",
    "num_attention_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "d_kv",
    "head_dim",
    "patch_size",
    "image_size",
)


def make_config(
    architecture: str, fields: dict[str, Any], *, head: str, labels: int, checked: bool = True
) -> PretrainedConfig:
    """Return the transformers configuration of an architecture with these fields, sized for a head.

    Raises ConfigError for an unknown architecture, for values that make no model (heads that do not divide the width), and (if
    `checked`) for a field that the architecture does not have.
    """
    kind = config_class(architecture)
    fields = dict(fields)
    known = known_fields(architecture)
    for key in fields:
        if checked and key not in known:
            raise ConfigError(f"architecture '{architecture}' has no configuration field '{key}'{nearest(key, known)}")
    if "is_encoder_decoder" in known and kind().is_encoder_decoder:
        fields.setdefault("decoder_start_token_id", fields.get("pad_token_id", kind().pad_token_id))
    count = output_count(head, labels)
    if count is not None:
        for key in ("id2label", "label2id", "num_labels"):
            fields.pop(key, None)
        fields["num_labels"] = count
    if head == "regression":
        fields["problem_type"] = "regression"
    elif head in ("classification", "image"):
        fields["problem_type"] = "single_label_classification"
    fields["dtype"] = "float32"
    fields.pop("torch_dtype", None)
    try:
        config = kind(**fields)
    except (StrictDataclassError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"architecture '{architecture}': {_one_line(error)}") from None
    _check_shape(config, fields)
    return config


def config_class(architecture: str) -> type[PretrainedConfig]:
    """Return the configuration class of an architecture; raises ConfigError with the nearest known name."""
    # These register the architectures and heads that transformers lacks.
    import replica.models.clip
    import replica.models.monarch
    import replica.models.residual
    import replica.models.state_space
    import replica.models.vision
    import replica.models.vision_language
    import replica.models.vision_language_t5  # noqa: F401

    if architecture not in CONFIG_MAPPING:
        raise ConfigError(f"unknown architecture '{architecture}'{nearest(architecture, CONFIG_MAPPING)}")
    return CONFIG_MAPPING[architecture]


def _one_line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())


def _check_shape(config: PretrainedConfig, fields: dict[str, Any]) -> None:
    """Raise ConfigError for sizes below 1 and for heads that do not divide the width, unless heads have a width of their own."""
    sizes = {name: getattr(config, name, None) for name in _SIZES}
    sizes = {name: size for name, size in sizes.items() if isinstance(size, int)}
    for name, size in sizes.items():
        if size < (0 if name == "num_hidden_layers" else 1):
            raise ConfigError(f"architecture '{config.model_type}': {name} is {size}, which makes no model")
    if sizes.get("patch_size", 1) > sizes.get("image_size", sizes.get("patch_size", 1)):
        raise ConfigError(
            f"architecture '{config.model_type}': patch_size {sizes['patch_size']} is above image_size {sizes['image_size']}"
        )
    own_width = hasattr(config, "d_kv") or fields.get("head_dim") is not None
    for name in ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"):
        if name in sizes and not own_width and sizes.get("hidden_size", 0) % sizes[name]:
            raise ConfigError(
                f"architecture '{config.model_type}': {name} {sizes[name]} does not divide the width {sizes['hidden_size']}"
            )
    shared = getattr(config, "num_key_value_heads", None)
    if isinstance(shared, int) and (shared < 1 or sizes["num_attention_heads"] % shared):
        raise ConfigError(
            f"architecture '{config.model_type}': num_key_value_heads {shared} does not divide "
            f"num_attention_heads {sizes['num_attention_heads']}"
        )


def known_fields(architecture: str) -> set[str]:
    """Return the names that a configuration of this architecture may have."""
    kind = config_class(architecture)
    return {*kind().to_dict(), *kind.attribute_map, *_EXTRA_FIELDS} - {"model_type"}


def from_config(
    config: PretrainedConfig, *, head: str, seed: int, device: str = "cpu", attention: str = "sdpa"
) -> PreTrainedModel:
    """Build the head's model of a configuration in float32; weights depend on the seed alone.

    An architecture without a fused attention kernel is built with its own kernel for any `attention`.
    Raises ConfigError for a head that the architecture does not have.
    """
    check_head(config, head)
    make = getattr(auto_class(head), "from_config", None) or auto_class(head)._from_config
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta" if device == "meta" else "cpu"):
            torch.default_generator.manual_seed(seed)
            model = make(config, attn_implementation=supported_attention(config, head, attention))
            if config.model_type == "mt5" and hasattr(model, "lm_head"):
                _untie_output(model)
    except ValueError as error:
        raise ConfigError(f"architecture '{config.model_type}': {_one_line(error)}") from error
    model.eval()
    return model if device == "cpu" else model.to(device)  # on meta too: wav2vec 2.0 makes a parameter on the processor


def _untie_output(model: PreTrainedModel) -> None:
    """Give mT5 the output layer of its own that it was published with; transformers 5 ties it to the words' embedding."""
    model._tied_weights_keys = {k: v for k, v in model._tied_weights_keys.items() if k != "lm_head.weight"}
    weight = torch.empty_like(model.lm_head.weight).normal_(0.0, model.config.initializer_factor)
    model.lm_head.weight = torch.nn.Parameter(weight)


def build(
    entry: ModelEntry,
    *,
    head: str,
    labels: int = 2,
    seed: int = 0,
    device: str = "cpu",
    attention: str = "sdpa",
    changes: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Build a registered model with random weights, in eval mode.

    `head` is one of `replica.models.heads`, `none` for the bare encoder; `device="meta"` builds it without memory;
    `attention` is `eager` or `sdpa` (where the architecture has it); `changes` replaces fields of the registered
    configuration. Equal arguments give equal weights. Raises ConfigError for unknown heads, architectures and fields.
    """
    config = make_config(entry.architecture, {**entry.config, **(changes or {})}, head=head, labels=labels)
    return from_config(config, head=head, seed=seed, device=device, attention=attention)


def from_asset(
    entry: ModelEntry,
    folder: Path | str,
    *,
    head: str,
    labels: int = 2,
    seed: int = 0,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """Load the weights in a retrieved model's folder under a head; the seed draws weights that the folder lacks, and a head for
    another number of labels.

    The folder's `config.json` gives the fields that the registry does not. Raises AssetError when the weights cannot be
    read, do not have the architecture's shapes, or lack a weight of the body (poolers excepted); ConfigError for a head that
    the architecture does not have.
    """
    from transformers.utils import logging

    folder = Path(folder)
    weights = folder / WEIGHTS
    check_weights(weights)
    config_file = folder / "config.json"
    stored = _read_config(config_file) if config_file.is_file() else {}
    part = config_class(entry.architecture).base_config_key
    if stored.get("model_type") != entry.architecture and isinstance(stored.get(part), dict):
        stored = {"model_type": entry.architecture, **stored[part]}  # one tower of a model of two
    architecture = stored.pop("model_type", entry.architecture)
    if architecture != entry.architecture:
        raise AssetError(f"{config_file} has model_type '{architecture}', the registry '{entry.architecture}'")
    known = known_fields(entry.architecture)
    stored = {key: value for key, value in stored.items() if key in known}
    config = make_config(entry.architecture, {**stored, **entry.config}, head=head, labels=labels)
    check_head(config, head)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model, report = auto_class(head).from_pretrained(
                folder,
                config=config,
                attn_implementation=supported_attention(config, head, attention),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are looked at below
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise AssetError(f"{weights} does not fit architecture '{entry.architecture}': {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    for key, stored_shape, shape in sorted(report["mismatched_keys"]):
        if output_count(head, labels) is None or not is_head_key(key, body_prefix(model)):
            raise AssetError(
                f"{weights}: '{key}' is {tuple(stored_shape)}, the registry's configuration with head '{head}' makes it {tuple(shape)}"
            )
    missing = sorted(key for key in report["missing_keys"] if not is_head_key(key, body_prefix(model)))
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise AssetError(f"{weights} lacks {len(missing)} weights of the body of '{entry.architecture}': {shown}")
    return model.eval()


def grown(
    entry: ModelEntry, source: ModelEntry, folder: Path | str, *, head: str, labels: int = 2, seed: int = 0
) -> PreTrainedModel:
    """Build a model that starts with the weights of a smaller one (`source`, retrieved into the folder).

    The seed draws its further weights, and the rows and columns beyond the source's. Raises AssetError where the source has
    a weight that it lacks or that is larger than its own.
    """
    model = build(entry, head=head, labels=labels, seed=seed)
    start = from_asset(source, folder, head=head, labels=labels, seed=seed)
    own = model.state_dict()
    for name, value in start.state_dict().items():
        if name not in own or any(have > need for have, need in zip(value.shape, own[name].shape, strict=True)):
            raise AssetError(f"{Path(folder) / WEIGHTS}: '{name}' {tuple(value.shape)} has no room in '{entry.title}'")
        with torch.no_grad():
            own[name][tuple(slice(size) for size in value.shape)].copy_(value)
    return model


def body_prefix(model: PreTrainedModel) -> str:
    """Return the body's attribute name in a model with a head; empty when the model is the body."""
    return "" if model.base_model is model else model.base_model_prefix


def check_weights(path: Path) -> None:
    """Raise AssetError naming the file when it is missing or is not a whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise AssetError(f"{path} is missing; a model's weights are expected there as safetensors")
    try:
        with safe_open(path, framework="pt") as handle:
            handle.keys()
    except (SafetensorError, OSError) as error:
        raise AssetError(f"{path} is not a readable safetensors file ({error}); retrieve or train it again") from None


def _read_config(path: Path) -> dict[str, Any]:
    """Read a model's config.json without the entries on how it was stored."""
    stored = read_json(path, AssetError)
    if not isinstance(stored, dict):
        raise AssetError(f"{path} holds no JSON object")
    drop = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "gradient_checkpointing")
    return {key: value for key, value in stored.items() if key not in drop}
