"""Models on disk: `model.safetensors` with plain tensors, and `model.json` that describes the modules to rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from replica.errors import AssetError, ConfigError
from replica.files import atomic_path, has_type, read_json, write_json
from replica.methods.registry import parse
from replica.models.factory import WEIGHTS, body_prefix, check_weights, from_config, make_config
from replica.models.heads import LABELLED, is_head_key

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from replica.methods.base import Method

DESCRIPTION = "model.json"
_KEYS = {"architecture": str, "config": dict, "head": str, "labels": int, "structure": list, "tied": dict}


def save_model(
    model: PreTrainedModel, folder: Path | str, *, head: str, labels: int, structure: list[dict[str, Any]]
) -> None:
    """Write a model's tensors and description into a folder.

    `structure` lists the persistent methods whose modules the model holds, as `{name, field: value…}` in the order of
    their preparation. Tensors keep their type (packed integers too); tensors that share memory are written once, and
    `tied` in `model.json` maps the other names to that one. Raises ConfigError for a model on the meta device.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, tied = _split_tied(model.state_dict())
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ConfigError(f"'{name}' is on the meta device and has no values to store")
    from safetensors.torch import save_file

    with atomic_path(folder / WEIGHTS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    config = model.config.to_diff_dict()
    drop = (
        "transformers_version",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "architectures",
        "model_type",
        "num_labels",
    )
    config = {key: value for key, value in config.items() if key not in (*drop, "id2label", "label2id")}
    description = {
        "architecture": model.config.model_type,
        "config": config,
        "head": head,
        "labels": labels,
        "structure": structure,
        "tied": tied,
    }
    write_json(folder / DESCRIPTION, description)


def load_model(
    folder: Path | str,
    *,
    head: str | None = None,
    labels: int | None = None,
    seed: int = 0,
    attention: str = "sdpa",
    methods: dict[str, Method] | None = None,
) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
    """Rebuild a stored model, in eval mode, and return it with the list of persistent methods that are in it.

    The model is built from the stored configuration, every persistent method restores its modules in order (one of
    `methods` with its name takes its place), and the weights are loaded strictly. With another head, or another
    number of labels, the body's weights are loaded and the head is drawn by `seed`.

    Raises AssetError naming the file when it is missing, corrupt or does not fit.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    check_weights(folder / WEIGHTS)
    stored_head, stored_labels = description["head"], description["labels"]
    head = head or stored_head
    labels = stored_labels if labels is None else labels
    try:
        config = make_config(
            description["architecture"], description["config"], head=head, labels=labels, checked=False
        )
    except ConfigError as error:
        raise AssetError(f"{folder / DESCRIPTION}: {error}") from None
    model = from_config(config, head=head, seed=seed, attention=attention)
    for reference in description["structure"]:
        instance = (methods or {}).get(reference["name"])
        if instance is None:
            method, values = parse(reference)
            instance = method.create(values)
        instance.restore(model)
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    for name, first in description["tied"].items():
        tensors[name] = tensors[first]
    same = _same_head(stored_head, head) and (stored_labels == labels or head not in LABELLED)
    if same:
        _load_tensors(model, tensors, set(model.state_dict()), folder / WEIGHTS, exact=True)
    else:
        prefix = body_prefix(model)
        source_prefix = _stored_prefix(tensors, prefix or model.base_model_prefix)
        tensors = _move_prefix(tensors, source_prefix, prefix)
        wanted = {key for key in model.state_dict() if not is_head_key(key, prefix)}
        if not prefix:
            wanted -= {key for key in wanted - set(tensors) if key.startswith("lm_head")}
        wanted |= {key for key in tensors if "pooler" in key.split(".") and key in model.state_dict()}
        _load_tensors(model, tensors, wanted, folder / WEIGHTS, exact=False)
    return model.eval(), description["structure"]


def _same_head(stored: str, wanted: str) -> bool:
    return stored == wanted or {stored, wanted} == {"text", "none"}


def _split_tied(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors to write, and the names that share memory with one of them."""
    first: dict[tuple, str] = {}
    tensors, tied = {}, {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and not tensor.is_meta and place in first:
            tied[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor.detach().clone()
    return tensors, tied


def _load_tensors(
    model: nn.Module, tensors: dict[str, torch.Tensor], wanted: set[str], path: Path, *, exact: bool
) -> None:
    """Copy the wanted tensors into the model; shapes and kinds of type must agree, with `exact` all names too."""
    state = model.state_dict()
    missing = sorted(wanted - set(tensors))
    extra = sorted(set(tensors) - wanted) if exact else []
    if missing or extra:
        faults = [f"lacks {_shown(missing)}"] * bool(missing) + [f"has the unknown {_shown(extra)}"] * bool(extra)
        raise AssetError(f"{path} does not fit the model that {DESCRIPTION} describes: it {' and '.join(faults)}")
    for name in sorted(wanted):
        have, need = tensors[name], state[name]
        if have.shape != need.shape or have.is_floating_point() != need.is_floating_point():
            raise AssetError(
                f"{path}: '{name}' is {have.dtype} {tuple(have.shape)}, "
                f"the model needs {need.dtype} {tuple(need.shape)}"
            )
    model.load_state_dict({name: tensors[name] for name in wanted}, strict=exact)
    state = model.state_dict()
    for name in sorted(wanted):
        if not _equal(state[name], tensors[name]):
            raise AssetError(
                f"{path}: '{name}' was stored with values of its own, but the rebuilt model ties it to another"
            )


def _equal(loaded: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether a tensor holds the stored values (in its own type); NaN equals NaN."""
    stored = stored.to(loaded.dtype)
    return bool(torch.equal(loaded, stored) or torch.allclose(loaded, stored, rtol=0, atol=0, equal_nan=True))


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _stored_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> str:
    """Return the body's prefix in stored names: `prefix` where any name has it, else none."""
    return prefix if any(name.startswith(f"{prefix}.") for name in tensors) else ""


def _move_prefix(tensors: dict[str, torch.Tensor], source: str, target: str) -> dict[str, torch.Tensor]:
    """Return the body's tensors under the target's prefix; names outside the source's body are dropped."""
    moved = {}
    for name, tensor in tensors.items():
        if source and not name.startswith(f"{source}."):
            continue
        inner = name.removeprefix(f"{source}.") if source else name
        moved[f"{target}.{inner}" if target else inner] = tensor
    return moved


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AssetError(f"{path} is missing: a stored model is {WEIGHTS} and {DESCRIPTION}")
    description = read_json(path, AssetError)
    if not isinstance(description, dict) or set(description) != set(_KEYS):
        raise AssetError(f"{path} must have exactly the keys {', '.join(sorted(_KEYS))}")
    for key, kind in _KEYS.items():
        if not has_type(description[key], kind):
            raise AssetError(f"{path}: `{key}` is {description[key]!r:.60}, which is no {kind.__name__}")
    return description
