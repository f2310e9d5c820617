"""Programs that time the project. A package, because some libraries install another one of this name, which would be found instead."""
