"""Schemas of scales (config/scales/) and settings (config/config.yaml)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from replica.config.asset_schema import ScaleName
from replica.config.schema import Tolerance
from replica.config.strict import Count, Seeds, Strict
from replica.config.task_schema import Kind


class Scale(Strict):
    """An overlay on the runs: which section it reads, stand-ins, caps on training, seeds."""

    name: ScaleName
    sections: list[Literal["laptop", "paper"]] = Field(min_length=1)
    seeds: Seeds
    standin_models: dict[str, str] = Field({}, description="by architecture, where a model's own entry names none")
    standin_tasks: dict[Kind, str] = Field({}, description="by kind, where a task's own entry names none")
    train: dict[str, Any] = Field({}, description="values that replace a run's own")
    methods: dict[str, dict[str, Any]] = Field({}, description="method: values that replace a run's own")
    tune: bool = True
    threads: int = Field(1, ge=1, le=1024, description="processor cores of a process")
    mem_mb: Count = Field(3000, description="least memory of a job")
    runtime: int = Field(
        30, ge=1, le=525_600, description="most minutes of a job, and how far they grow with its attempts"
    )
    gpus_per_node: int = Field(8, ge=1, le=1024, description="a run with more GPUs asks for several nodes")


class Settings(Strict):
    """config/config.yaml: enabled papers, scale, sources of assets, default tolerances."""

    papers: list[str] | None = Field(None, description="the papers of this call; all that are not disabled when absent")
    disabled: list[str] = Field([], description="papers of config/papers/ that are left out")
    scale: ScaleName = "laptop"
    quick: bool = Field(True, description="of the laptop's trends only those marked quick")
    measured: bool = Field(
        False, description="claims, tables and report of the results that there are; no run is started"
    )
    claims: list[str] | None = Field(
        None, description="run only the jobs that the verdicts of these need, quick or not"
    )
    sources: list[Literal["generated", "package", "wheel", "mirror", "hub"]] = [
        "generated",
        "package",
        "wheel",
        "mirror",
        "hub",
    ]
    tolerances: dict[str, Tolerance] = Field({}, description="by kind of claim, where the claim has none")
    confidence_level: float = Field(0.95, gt=0.5, lt=1)
    public_remotes: list[str] = Field(
        [], description="DVC remotes that anybody can read; they get only assets that may be passed on"
    )
