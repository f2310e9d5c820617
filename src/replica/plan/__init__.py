"""From papers to a DAG of runs, with parents, seeds, resources and costs. Imports no torch."""

from replica.plan.runs import Plan, Prepared, Run, build_plan

__all__ = ["Plan", "Prepared", "Run", "build_plan"]
