"""Tables, figures, bibliography and the site."""


localrules:
    tables,
    figures,
    bibliography,
    report,


rule tables:
    input:
        claims="results/{scale}/papers/{paper}/claims.json",
    output:
        tables=report(
            directory("results/{scale}/papers/{paper}/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
            subcategory="{paper}",
            labels={"paper": "{paper}", "table": "{table}"},
        ),
    log:
        "logs/tables/{scale}/{paper}.log",
    benchmark:
        "benchmarks/tables/{scale}/{paper}.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        fingerprint=layout_fingerprint,
    message:
        "writing the tables of {wildcards.paper}"
    shell:
        "python scripts/tables.py --paper {wildcards.paper} --claims {input.claims:q} --out {output.tables:q} > {log:q} 2>&1"


rule figures:
    input:
        claims="results/{scale}/papers/{paper}/claims.json",
        structural="results/structural/{paper}.json",
    output:
        figures=report(
            directory("results/{scale}/papers/{paper}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{paper}",
            labels={"paper": "{paper}", "figure": "{figure}"},
        ),
    log:
        "logs/figures/{scale}/{paper}.log",
    benchmark:
        "benchmarks/figures/{scale}/{paper}.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        fingerprint=layout_fingerprint,
    message:
        "drawing the figures of {wildcards.paper}"
    shell:
        "python scripts/figures.py --paper {wildcards.paper} --scale {wildcards.scale} --claims {input.claims:q} --results results"
        " --out {output.figures:q} > {log:q} 2>&1"


rule bibliography:
    output:
        bib=report(
            BIBLIOGRAPHY,
            caption="../report/bibliography.rst",
            category="Ledger",
            labels={"file": "bibliography"},
        ),
    log:
        "logs/bibliography.log",
    benchmark:
        "benchmarks/bibliography.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        fingerprint=report_fingerprint,
        papers=list(PROJECT.papers),
    message:
        "writing the bibliography"
    shell:
        "python scripts/bibliography.py --papers {params.papers:q} --out {output.bib:q} > {log:q} 2>&1"


rule report:
    input:
        ledger=str(SUMMARY / "claims.json"),
        tables=expand(
            "results/{scale}/papers/{paper}/tables", scale=SCALE, paper=PROJECT.papers
        ),
        figures=expand(
            "results/{scale}/papers/{paper}/figures", scale=SCALE, paper=PROJECT.papers
        ),
    output:
        page=REPORT,
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        fingerprint=report_fingerprint,
        scale=SCALE,
    message:
        "writing the report"
    shell:
        "python scripts/report.py --ledger {input.ledger:q} --scale {params.scale:q} --results results --out {output.page:q}"
        " > {log:q} 2>&1"
