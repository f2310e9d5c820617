"""Sharing: data sets, runs and results as one archive each, pinned by git, stored by DVC.

`publish.publish` uploads them, `adopt.adopt` downloads them, `reevaluate.reevaluate` scores adopted checkpoints again. `artifacts` lists a
plan's artifacts, `archive` packs and `index` records them, `checks` verifies them, `store` calls DVC, `records` carries Snakemake's
records along, `checkout` guards the working copy, `cards` writes model cards, `sync` fills a mirror. No job calls this package.
"""
