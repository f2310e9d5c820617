"""Replica's workflow: from data sets and models to claims with evidence. `snakemake` alone makes the report of config/config.yaml."""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/retrieve.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/compress.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    paper,
    structural,
    datasets,
    runs,


rule all:
    default_target: True
    input:
        LEDGER,
        REPORT,
        BIBLIOGRAPHY,
        all_outputs,


rule paper:
    input:
        paper_outputs,


rule structural:
    input:
        expand("results/structural/{paper}.json", paper=PROJECT.papers),


rule datasets:
    input:
        wanted_assets,


rule runs:
    input:
        wanted_metrics,
