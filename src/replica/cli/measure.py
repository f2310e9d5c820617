"""`replica measure`: the cost of training a registered or hub-style model, measured on the meta device without weights.

The flags' help comes from the meters' options, and their values are checked as one request. Imports torch only to measure.
"""

from __future__ import annotations

import argparse
import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from replica.config.asset_schema import ModelEntry
from replica.config.validation import explain, validate
from replica.config.yaml_files import parse_yaml
from replica.errors import ConfigError, nearest
from replica.meters.options import FlopsOptions, MemoryOptions, OptimizerOptions, Rule, StorageOptions
from replica.meters.registry import parse_meters
from replica.methods.registry import parse

#: Flags that set an option of the memory meter, by the option's name.
MEMORY_FLAGS = {
    "batch": "--batch",
    "length": "--length",
    "decoder_length": "--decoder-length",
    "era": "--semantics",
    "attention": "--attention",
    "dtype": "--dtype",
}
#: Options of an optimizer after its colon.
OPTIMIZER_OPTIONS = ("rank", "projector", "per_layer")
#: Bytes of the units of a budget.
UNITS = {
    "B": 1, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


#: Entries of a hub's config.json that do not describe the shape of the model.
HUB_ONLY = (
    "model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "auto_map", "quantization_config",
)  # fmt: skip


class Request(BaseModel):
    """The model's head and methods, and the options of each meter; checked before anything is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: str | None = None
    labels: int | None = Field(None, ge=1, le=1_000_000)
    methods: list[dict[str, Any]] = []
    memory: MemoryOptions
    flops: FlopsOptions
    optimizer: OptimizerOptions | None
    storage: StorageOptions


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verb `measure` to the command line; values are checked by `read_request`, so that a mistake is one line."""
    verb = verbs.add_parser(
        "measure", help="the cost of training a model: parameters, FLOPs, memory, bytes; no weights"
    )
    verb.set_defaults(run=measure)
    verb.add_argument(
        "model", metavar="MODEL", help="a registered model, or the path of a config.json of the hub's form"
    )
    verb.add_argument("--head", help="classification, mlm, text2text, causal, image, … (default: the usual)")
    verb.add_argument("--labels", help="classes of the head (default: 2; images: 1000, small ones 10)")
    for name, flag in MEMORY_FLAGS.items():
        field = MemoryOptions.model_fields[name]
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        default = "" if field.default is None else f" (default: {field.default})"
        verb.add_argument(
            flag,
            help=f"{', '.join(choices)}{': ' if choices else ''}{field.description}{default}",
            metavar=name.upper(),
        )
    rules = ", ".join(rule for rule in get_args(Rule) if not rule.startswith("galore"))
    galore = f"galore:rank=R[,{','.join(f'{key}=…' for key in OPTIMIZER_OPTIONS[1:])}], galore8bit:…"
    verb.add_argument("--optimizer", help=f"{rules}, {galore}, or none (default: adamw)")
    verb.add_argument("--budget", help="memory, e.g. 16GB: also list the registered methods that fit")
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

    from replica.cli.measure_report import fitting, print_budget, print_report, report_of

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
    """Read a model's config.json of the hub's form; entries about weights, types and own code are left out.

    Raises ConfigError when it is no JSON object or names no architecture that is known here.
    """
    from replica.models.factory import known_fields

    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("model_type"), str):
        raise ConfigError(f"{path} has no `model_type`: it is no model's config.json")
    architecture = stored["model_type"]
    try:
        known = known_fields(architecture)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    fields = {key: value for key, value in stored.items() if key in known and key not in HUB_ONLY}
    entry = {"title": str(path), "architecture": architecture, "config": fields}
    return validate(ModelEntry, entry, str(path))


def read_request(arguments: Namespace) -> Request:
    """Check the flags; raises ConfigError naming the one at fault."""
    flags = {name: getattr(arguments, flag.strip("-").replace("-", "_")) for name, flag in MEMORY_FLAGS.items()}
    options = {"batch": 32, "era": "today", "attention": "eager", "dtype": "float32"}
    options |= {name: value for name, value in flags.items() if value is not None}
    rule, of_rule = parse_optimizer(arguments.optimizer)
    dtype = options["dtype"]
    meters = {
        "memory": {**options, "optimizer": rule, **of_rule},
        "flops": {key: options[key] for key in ("batch", "length", "decoder_length") if key in options}
        | {"backward": True},
        "storage": {"default_bits": 32 if dtype == "float32" else 16},
    }
    if rule is not None:
        projection = {key: value for key, value in of_rule.items() if key != "per_layer"}
        meters["optimizer"] = {"rule": rule, "dtype": dtype, **projection}
    methods = [parse_method(text) for text in arguments.method]
    for reference in methods:
        parse(reference)
    try:
        parsed = {"optimizer": None, **parse_meters(meters, "measure")}
        return Request(head=arguments.head, labels=arguments.labels, methods=methods, **parsed)
    except ValidationError as error:
        raise ConfigError(_with_flag(f"measure: {explain(error, Request)}")) from None
    except ConfigError as error:
        raise ConfigError(_with_flag(str(error))) from None


def _with_flag(message: str) -> str:
    """Name the flag instead of the meter's option: `measure.memory: era: …` becomes `--semantics: …`."""
    match = re.match(r"measure(?:\.\w+)?: (\w+): (.*)", message, re.DOTALL)
    if not match:
        return message
    option, rest = match.groups()
    if option in OPTIMIZER_OPTIONS or option in ("optimizer", "rule", "value"):
        reason = rest.removeprefix("Value error, ") if option == "value" else f"{option}: {rest}"
        return f"--optimizer: {reason.partition(' (got {')[0]}"
    return f"{MEMORY_FLAGS.get(option, f'--{option}')}: {rest}"


def parse_optimizer(text: str | None) -> tuple[str | None, dict[str, Any]]:
    """Turn `galore:rank=128` into the rule and its options; `none` means no optimizer, and an absent text AdamW."""
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
    """Return the bytes of `16GB`, `512 MiB` or `24G`; raises ConfigError for anything else, and for zero."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    unit = UNITS.get(match.group(2).upper()) if match else None
    if not match or unit is None or not 0 < float(match.group(1)) * unit < float("inf"):
        raise ConfigError(f"--budget '{text}' is no amount of memory; write e.g. 16GB, 512MB or 24GiB")
    return float(match.group(1)) * unit


def _split(text: str, where: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    options = {}
    for part in re.split(r",(?![^\[\]]*\])", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{where} '{text}': '{part}' is not key=value")
        options[key.strip()] = parse_yaml(value, f"{where} '{text}': '{value}' is no value")
    return name.strip(), options
