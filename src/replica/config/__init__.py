"""Every YAML file as a validated model; `load_project` reads a whole checkout. Imports no torch."""

from replica.config.project import Project, load_project

__all__ = ["Project", "load_project"]
