"""Follows every live tensor storage while a model runs, and records the largest sum and its parts."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from replica.meters.options import CATEGORIES

_ITEM = torch.ops.aten._local_scalar_dense.default
_ADD = torch.ops.aten.add.Tensor

#: References to a tensor whose last owner is autograd's buffer, seen from a dispatch mode: the buffer, the call's stack, its Python
#: object and the arguments; and to its storage: the tensor and the storage's Python object.
_OF_ENGINE, _OF_TENSOR = 4, 2


class AnswerItems(TorchDispatchMode):
    """Answers `.item()` on the meta device, where there is no value: 1, and for a truth value `truth`.

    Models ask it of masks: whether all tokens are real (`truth=True`) or some are padding.
    """

    def __init__(self, truth: bool = True):
        super().__init__()
        self.truth = truth

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Answer the question or pass the call on."""
        if func is _ITEM and args[0].is_meta:
            return self.truth if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


class ShapeMemory:
    """Runs operations on the meta device, and answers one that was seen before with empty tensors of the shapes it gave then.

    Most operations work out their shapes in Python there, which takes most of the time of a measurement, and layers and steps
    repeat each other. Only operations with new storages (or that change their first argument in place) are remembered, by the
    operation and the shapes, strides and types of all arguments; views and tensors outside meta are always made anew.
    """

    def __init__(self) -> None:
        self._layouts: dict[tuple, tuple | None] = {}
        self._in_place: dict[Any, bool] = {}

    def run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Return the result of `func` for these arguments."""
        in_place = self._in_place.get(func)
        if in_place is None:
            in_place = self._in_place[func] = _is_in_place(func)
        key = (func, _describe(args), _describe(tuple(kwargs.items())) if kwargs else None)
        if key in self._layouts:
            layout = self._layouts[key]
            if layout is None:
                return func(*args, **kwargs)
            if layout is _ITSELF:
                return args[0]
            if type(layout[0]) is torch.Size:
                return torch.empty_strided(layout[0], layout[1], dtype=layout[2], device="meta")
            return tuple(
                item and torch.empty_strided(item[0], item[1], dtype=item[2], device="meta") for item in layout
            )
        before = _layout(args[0]) if in_place else None
        result = func(*args, **kwargs)
        if in_place:
            same = result is args[0] and args[0].is_meta and _layout(args[0]) == before
            self._layouts[key] = _ITSELF if same else None
        else:
            self._layouts[key] = _outputs(result, args, kwargs)
        return result


#: An operation that gives back its first argument, changed.
_ITSELF = ("itself",)


def _is_in_place(func: Any) -> bool:
    """Return whether an operation changes its first argument, one tensor; those over lists of tensors are run every time."""
    written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    first = func._schema.arguments[0] if func._schema.arguments else None
    return len(written) == 1 and first.name == written[0].name and str(first.type) == "Tensor"


def _layout(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.untyped_storage().nbytes()


def _describe(value: Any) -> Any:
    """Return a hashable value that decides an operation's shapes; a number with its type, for 1, 1.0 and True are equal."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_describe, value))
    return type(value), value


def _outputs(result: Any, args: tuple, kwargs: dict) -> tuple | None:
    """Return shape, stride and type of each output, or None where an operation's outputs are not new meta tensors alone."""
    several = type(result) is tuple
    outputs = result if several else (result,)
    tensors = [item for item in outputs if item is not None]
    if not tensors or not all(type(item) is torch.Tensor and item.is_meta for item in tensors):
        return None
    inputs = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
    storages = {t.untyped_storage()._cdata for t in tensors}
    if inputs & storages or len(storages) < len(tensors):
        return None
    layouts = tuple(None if item is None else (item.shape, item.stride(), item.dtype) for item in outputs)
    for item in tensors:
        again = torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
        if item.storage_offset() or again.untyped_storage().nbytes() != item.untyped_storage().nbytes():
            return None
    return layouts if several else layouts[0]


class StorageTracker(TorchDispatchMode):
    """Sums the bytes of all storages on one device that are alive, by the phase that made them.

    A storage counts once, whatever views it has, from the call that returns it until its last reference dies. Workspaces inside a
    kernel are not seen. `phase` is set by the caller; `peak` is the largest sum since `start`, `at_peak` its parts.
    Every storage is rounded up to a multiple of `rounding` bytes, as an allocator does.
    """

    def __init__(self, device: torch.device, truth: bool = True, rounding: int = 1):
        super().__init__()
        self.device = device.type
        self.rounding = rounding
        self.truth = truth
        self.phase = "forward"
        self.live = dict.fromkeys(CATEGORIES, 0)
        self.largest = dict.fromkeys(CATEGORIES, 0)
        self.peak, self.peak_phase, self.at_peak = 0, "", dict(self.live)
        self._storages: dict[int, tuple[weakref.ref, str, int]] = {}
        self._total = 0
        self._shapes = ShapeMemory()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and take up the storages of its results."""
        if func is _ITEM and args[0].is_meta:
            return self.truth if args[0].dtype == torch.bool else 1
        reused = func is _ADD and self._accumulates(*args)
        result = self._shapes.run(func, args, kwargs or {})
        if isinstance(result, torch.Tensor):
            if reused:
                self._forget(args[0].untyped_storage()._cdata)
            self.take(result)
            return result
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self.take(value)
        return result

    def add(self, category: str, tensors: Iterable[torch.Tensor]) -> None:
        """Take up tensors that exist already under a category."""
        for tensor in tensors:
            self.take(tensor, category)

    def take(self, tensor: torch.Tensor, category: str | None = None) -> None:
        """Take up a tensor's storage if it is new; with a category, move it there."""
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._storages.get(key)
        if known is not None and known[0]() is storage:
            if category is not None and known[1] != category:
                self._storages[key] = (known[0], category, known[2])
                self._change(known[1], -known[2])
                self._change(category, known[2])
            return
        size, made_in = -(-storage.nbytes() // self.rounding) * self.rounding, category or self.phase
        reference = weakref.ref(storage, lambda dead, key=key: self._drop(key, dead))
        self._storages[key] = (reference, made_in, size)
        self._change(made_in, size)

    def category_of(self, tensor: torch.Tensor) -> str | None:
        """Return the category of a tensor's storage, or None when it is not followed."""
        known = self._storages.get(tensor.untyped_storage()._cdata)
        return known[1] if known else None

    def _accumulates(self, total: torch.Tensor, other: object) -> bool:
        """Return whether an addition is autograd's sum of two gradients that takes the first one's storage where no mode looks on."""
        return (
            self.phase == "backward"
            and not torch.is_grad_enabled()
            and isinstance(other, torch.Tensor)
            and (total.shape, total.dtype) == (other.shape, other.dtype)
            and total._use_count() == _OF_ENGINE
            and torch._C._storage_Use_Count(total.untyped_storage()._cdata) == _OF_TENSOR
        )

    def _drop(self, key: int, dead: weakref.ref) -> None:
        known = self._storages.get(key)
        if known is not None and known[0] is dead:
            self._forget(key)

    def _forget(self, key: int) -> None:
        known = self._storages.pop(key, None)
        if known is not None:
            self._change(known[1], -known[2])

    def _change(self, category: str, size: int) -> None:
        self.live[category] += size
        self._total += size
        self.largest[category] = max(self.largest[category], self.live[category])
        if self._total > self.peak:
            self.peak, self.peak_phase, self.at_peak = self._total, self.phase, dict(self.live)


class SavedBytes:
    """Sums the storages that autograd keeps for the backward pass, each once, without parameters, buffers and inputs."""

    def __init__(self, tracker: StorageTracker):
        self.tracker = tracker
        self.sizes: dict[int, int] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the tensors that are saved inside this block."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    @property
    def total(self) -> int:
        """Bytes of the forward pass's results that are kept."""
        return sum(self.sizes.values())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.tracker.category_of(tensor) not in ("parameter", "buffer", "input", None):
            storage = tensor.untyped_storage()
            self.sizes[storage._cdata] = storage.nbytes()
        return tensor
