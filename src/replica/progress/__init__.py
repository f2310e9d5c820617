"""How far a scale's jobs are, read from the files that they leave: the jobs of a plan, training's lines, a look at all of them."""
