"""`replica measure`: what training a registered or hub-style model costs, measured on the meta device without weights."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from replica.config.asset_schema import ModelEntry
from replica.config.schema import Measurement
from replica.config.validation import explain
from replica.errors import ConfigError, ReplicaError, nearest
from replica.meters.registry import ASSUMPTIONS, Rule, parse_meters, plain, run_meter
from replica.methods.registry import entries, parse

if TYPE_CHECKING:
    from replica.meters.registry import Measured

#: Bytes of a unit that a budget may have.
UNITS = {
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "M": 1e6,
    "G": 1e9,
    "B": 1,
}
#: What an optimizer may be told after a colon.
OPTIMIZER_OPTIONS = ("rank", "projector", "per_layer")
#: Entries of a hub's config.json that say nothing about the shape of the model.
HUB_ONLY = (
    "model_type",
    "architectures",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "auto_map",
    "quantization_config",
)


class Request(BaseModel):
    """What is measured of a model; checked before anything is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: str | None = None
    labels: int | None = Field(None, ge=1, le=1_000_000)
    methods: list[dict[str, Any]] = []
    memory: dict[str, Any]
    flops: dict[str, Any]
    optimizer: dict[str, Any] | None
    storage: dict[str, Any]


#: Options of `measure`; they are checked by `read_request`, so that a mistake is one line.
OPTIONS = {
    "--head": "classification, regression, tagging, span, mlm, pretraining, text2text, causal, image, ... (default: the usual)",
    "--labels": "classes of the head (default: 2; images: 1000, small ones 10)",
    "--batch": "examples a step (default: 32)",
    "--length": "tokens an example, frames of sound (default: 128)",
    "--decoder-length": "tokens of the decoder's side (default: 128)",
    "--optimizer": "adamw, adamw8bit, sgd, adafactor, lion, galore:rank=R[,projector=int8,per_layer=true], galore8bit:..., none",
    "--semantics": "today, or 2021: the buffers that the software of that time kept (default: today)",
    "--attention": "eager or fused (default: eager)",
    "--dtype": "float32, bfloat16 or float16, of weights, gradients and state (default: float32)",
    "--budget": "memory, e.g. 16GB: also list the registered methods that fit",
}


def add(verbs: Any) -> None:
    """Add the verb `measure` to the command line."""
    verb = verbs.add_parser(
        "measure", help="the cost of training a model: parameters, FLOPs, memory, bytes; no weights"
    )
    verb.set_defaults(run=measure)
    verb.add_argument(
        "model", metavar="MODEL", help="a registered model, or the path of a config.json of the hub's form"
    )
    for flag, text in OPTIONS.items():
        verb.add_argument(flag, help=text)
    verb.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="M[:key=value,...]",
        help="a registered method; may be repeated",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")


def measure(arguments: Namespace) -> int:
    """Print the cost of training a model with methods, and with a budget which registered methods fit."""
    from transformers.utils import logging

    from replica.cli.measure_text import print_budget, print_report

    logging.set_verbosity_error()
    name, entry = find_model(arguments.root, arguments.model)
    request = read_request(arguments)
    budget = parse_budget(arguments.budget) if arguments.budget is not None else None
    report = report_of(name, entry, request)
    if budget is not None:
        report["budget"] = {"bytes": budget, "methods": fitting(name, entry, request, budget)}
    if arguments.json:
        print(json.dumps(report, indent=2, allow_nan=False))
        return 0
    print_report(report)
    if budget is not None:
        print_budget(report["budget"])
    return 0


# --- what is asked -----------------------------------------------------------------------------------------------------


def find_model(root: str, name: str) -> tuple[str, ModelEntry]:
    """Return a registered model, or the one that a config.json describes (or a folder that holds one)."""
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if path.is_file():
        return path.parent.name or str(path), read_hub_config(path)
    if path.suffix == ".json" or len(path.parts) > 1:
        raise ConfigError(f"{name}: no such file; give a registered model or the path of a config.json")
    from replica.assets.models import TOKENIZER_ONLY
    from replica.config import load_project

    entry = load_project(root).model(name)
    if entry.architecture == TOKENIZER_ONLY:
        raise ConfigError(f"'{name}' is a tokenizer: there is no model to measure")
    return name, entry


def read_hub_config(path: Path) -> ModelEntry:
    """Read a model's config.json of the hub's form; what it says of weights, types and own code is left out.

    Raises ConfigError when it is no JSON object or names no architecture that is known here.
    """
    from replica.models.factory import known_fields

    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("model_type"), str):
        raise ConfigError(f"{path} has no `model_type`: it is no model's config.json")
    architecture = stored["model_type"]
    try:
        known = known_fields(architecture)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    fields = {key: value for key, value in stored.items() if key in known and key not in HUB_ONLY}
    return ModelEntry(title=str(path), architecture=architecture, config=fields)


def read_request(arguments: Namespace) -> Request:
    """Check the options; raises ConfigError naming the one at fault."""
    shape = {"batch": arguments.batch, "length": arguments.length, "decoder_length": arguments.decoder_length}
    shape = {key: value for key, value in shape.items() if value is not None}
    rule, options = parse_optimizer(arguments.optimizer)
    dtype = arguments.dtype or "float32"
    memory = {
        "batch": 32,
        **shape,
        "optimizer": rule,
        **options,
        "era": arguments.semantics or "today",
        "attention": arguments.attention or "eager",
        "dtype": dtype,
    }
    kept = {key: value for key, value in options.items() if key != "per_layer"}
    optimizer = None if rule is None else {"rule": rule, "dtype": dtype, **kept}
    flops = {"batch": 32, **shape, "backward": True}
    methods = [parse_method(text) for text in arguments.method]
    for reference in methods:
        parse(reference)
    try:
        parse_meters({"memory": memory, "flops": flops, **({"optimizer": optimizer} if optimizer else {})}, "measure")
    except ConfigError as error:
        raise ConfigError(_as_flag(str(error))) from None
    storage = {"default_bits": 32 if dtype == "float32" else 16}
    try:
        return Request(
            head=arguments.head,
            labels=arguments.labels,
            methods=methods,
            memory=memory,
            flops=flops,
            optimizer=optimizer,
            storage=storage,
        )
    except ValidationError as error:
        raise ConfigError(_as_flag(f"measure: {explain(error, Request)}")) from None


def _as_flag(message: str) -> str:
    """Name the flag that a person gave where the check names a meter's option: `measure.memory: era: …` is of `--semantics`."""
    found = re.match(r"measure(?:\.\w+)?: (\w+): (.*)", message, re.DOTALL)
    if not found:
        return message
    option, rest = found.groups()
    if option in OPTIMIZER_OPTIONS or option in ("optimizer", "rule", "value"):
        said = rest.removeprefix("Value error, ") if option == "value" else f"{option}: {rest}"
        return f"--optimizer: {said.partition(' (got {')[0]}"
    return f"--{'semantics' if option == 'era' else option.replace('_', '-')}: {rest}"


def parse_optimizer(text: str | None) -> tuple[str | None, dict[str, Any]]:
    """Turn `galore:rank=128` into the rule and its options; `none` means no optimizer, and nothing AdamW."""
    name, options = _split(text or "adamw", "--optimizer")
    if name == "none":
        if options:
            raise ConfigError(f"--optimizer none takes no options, and got {', '.join(options)}")
        return None, {}
    if name not in get_args(Rule):
        raise ConfigError(f"unknown optimizer '{name}'{nearest(name, [*get_args(Rule), 'none'])}")
    for key in options:
        if key not in OPTIMIZER_OPTIONS:
            raise ConfigError(f"--optimizer {name}: unknown option '{key}'{nearest(key, OPTIMIZER_OPTIONS)}")
    if name.startswith("galore") and "rank" not in options:
        raise ConfigError(f"--optimizer {name}: give its rank, e.g. {name}:rank=128")
    return name, options


def parse_method(text: str) -> dict[str, Any]:
    """Turn `lora:rank=8,targets=[q,v]` into the reference `{name: lora, rank: 8, targets: [q, v]}`."""
    name, options = _split(text, "--method")
    return {**options, "name": name}


def parse_budget(text: str) -> float:
    """Return the bytes of `16GB`, `512 MiB` or `24G`; raises ConfigError for anything else, and for nothing at all."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    unit = UNITS.get(found.group(2).upper()) if found else None
    if not found or unit is None or not 0 < float(found.group(1)) * unit < float("inf"):
        raise ConfigError(f"--budget '{text}' is no amount of memory; write e.g. 16GB, 512MB or 24GiB")
    return float(found.group(1)) * unit


def _split(text: str, where: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    options = {}
    for part in re.split(r",(?![^\[\]]*\])", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{where} '{text}': '{part}' is not key=value")
        try:
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{where} '{text}': '{value}' is no value") from None
    return name.strip(), options


# --- what is measured --------------------------------------------------------------------------------------------------


def report_of(name: str, entry: ModelEntry, request: Request) -> dict[str, Any]:
    """Measure a model with the request's methods; returns everything that is printed, safe for JSON."""
    measured, head, labels = build(name, entry, request, request.methods)
    meters: dict[str, dict] = {
        "parameters": {},
        "flops": request.flops,
        "memory": request.memory,
        "storage": request.storage,
    }
    if request.optimizer is not None:
        meters["optimizer"] = request.optimizer
    results = {meter: run(name, head, meter, options, measured) for meter, options in meters.items()}
    if request.memory["era"] != "today":
        results["memory_today"] = run(name, head, "memory", {**request.memory, "era": "today"}, measured)
    return {
        "model": name,
        "architecture": entry.architecture,
        "head": head,
        "labels": labels,
        "methods": plain(request.methods),
        "request": plain({"memory": request.memory, "flops": request.flops, "optimizer": request.optimizer}),
        **results,
        "assumptions": {**{meter: ASSUMPTIONS[meter] for meter in meters}, "notes": notes(measured, request)},
    }


def build(name: str, entry: ModelEntry, request: Request, methods: list[dict[str, Any]]) -> tuple[Measured, str, int]:
    """Build a model on meta with methods in it; returns it with its head and number of labels."""
    from replica.measure.structural import one_line, prepare

    head = request.head or usual_head(entry)
    labels = request.labels or (usual_labels(entry) if head == "image" else 2)
    measurement = Measurement(model=name, head=head, labels=labels, methods=methods, meters={})
    project = SimpleNamespace(model=lambda _: entry)
    measured = one_line(lambda: prepare(project, measurement), f"{name} with head '{head}'")
    if "decoder_length" in request.memory and not getattr(measured.model.config, "is_encoder_decoder", False):
        raise ConfigError(f"--decoder-length: {name} has no decoder beside an encoder; leave it out")
    return measured, head, labels


def usual_labels(entry: ModelEntry) -> int:
    """Return the classes of the images that a model of this size is made for: ImageNet's, or CIFAR-10's and MNIST's."""
    side = entry.config.get("image_size", 224)
    return 10 if isinstance(side, int) and side <= 64 else 1000


def usual_head(entry: ModelEntry) -> str:
    """Return the head under which an architecture is usually fine-tuned."""
    from replica.models.auto_classes import has_head
    from replica.models.factory import make_config

    config = make_config(entry.architecture, entry.config, head="none", labels=2)
    if getattr(config, "is_encoder_decoder", False) and has_head(config, "text2text"):
        return "text2text"
    for head, sign in (
        ("image", "image"),
        ("ctc", "ctc"),
        ("classification", "mlm"),
        ("causal", "causal"),
        ("projection", "projection"),
    ):
        if has_head(config, sign) and has_head(config, head):
            return head
    return "none"


def run(name: str, head: str, meter: str, options: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """Run one meter; what a model cannot do on the meta device is a ConfigError in one line."""
    from replica.measure.structural import one_line

    checked = parse_meters({meter: options})[meter]
    return one_line(lambda: run_meter(meter, checked, measured), f"{name} with head '{head}': {meter}")


def notes(measured: Measured, request: Request) -> list[str]:
    """Return what this measurement takes for granted beyond what each meter says."""
    from replica.meters import semantics

    memory = request.memory
    said = [
        f"memory: batch {memory['batch']}, no padding, {memory['attention']} attention, dropout as a GPU keeps it, "
        f"everything in {memory['dtype']}, the rules of {memory['era']}",
        *semantics.notes(measured.model),
    ]
    for reference in request.methods:
        found = entries()[reference["name"]]
        if found.changes & {"loss", "optimizer"}:
            what = " and ".join(sorted(found.changes & {"loss", "optimizer"}))
            said.append(f"{found.name} changes the {what}: measured with the model's own loss and the optimizer named")
        if found.needs_teacher:
            said.append(f"{found.name} needs a teacher, whose memory and FLOPs are not counted")
    return said


# --- what fits ---------------------------------------------------------------------------------------------------------


def fitting(name: str, entry: ModelEntry, request: Request, budget: float) -> list[dict[str, Any]]:
    """Measure full training and every registered method by itself at its defaults; what fits the budget comes first.

    A row has `method`, `trainable`, `trainable_share`, `peak`, `fits`, or `skipped` with the reason. Methods that only change
    the loss, or need a teacher, are left out: they train what full training trains.
    """
    rows = []
    for method in [None, *sorted(entries())]:
        found = entries()[method] if method else None
        if found is not None and ("structure" not in found.changes or found.needs_teacher):
            continue
        row: dict[str, Any] = {"method": method or "full training"}
        try:
            measured, head, _ = build(name, entry, request, [{"name": method}] if method else [])
            counts = run(name, head, "parameters", {}, measured)
            memory = run(name, head, "memory", request.memory, measured)
        except ReplicaError as error:
            rows.append({**row, "skipped": str(error)})
            continue
        row |= {key: counts[key] for key in ("trainable", "trainable_share")}
        rows.append({**row, "peak": memory["peak"], "fits": memory["peak"] <= budget})
    return sorted(rows, key=lambda row: ("skipped" in row, not row.get("fits"), row.get("peak", 0)))
