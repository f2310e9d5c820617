"""Sharing: data sets, runs and results as one archive each, pinned by git, stored by DVC.

`publish.publish` puts them up, `adopt.adopt` takes them over, `reevaluate.reevaluate` scores adopted checkpoints again. `artifacts` says
what a plan's artifacts are, `archive` and `index` how they are kept, `checks` what a trustworthy one looks like, `store` talks to DVC,
`records` to Snakemake's memory of what it made, `checkout` guards the working copy. Nothing here is ever called by a job.
"""
