"""From papers to a DAG of runs, with parents, seeds, resources and costs. Imports no torch."""

from replica.plan.plan import Plan, Prepared, Resources, Run
from replica.plan.runs import build_plan

__all__ = ["Plan", "Prepared", "Resources", "Run", "build_plan"]
