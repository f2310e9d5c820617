"""From papers to a DAG of runs, with parents, seeds, resources and costs. Imports no torch."""

from replica.plan.builder import build_plan
from replica.plan.plan import Plan, Prepared, Resources, Run

__all__ = ["Plan", "Prepared", "Resources", "Run", "build_plan"]
