"""Claims become verdicts, and the verdicts of all papers the ledger."""


localrules:
    compare,
    ledger,


rule compare:
    input:
        measured=compare_inputs,
    output:
        claims="results/{scale}/papers/{paper}/claims.json",
    log:
        "logs/compare/{scale}/{paper}.log",
    benchmark:
        "benchmarks/compare/{scale}/{paper}.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        fingerprint=compare_fingerprint,
    message:
        "comparing {wildcards.paper} with what was measured"
    shell:
        "python scripts/compare.py --paper {wildcards.paper} --scale {wildcards.scale} --results results"
        " --out {output.claims:q} > {log:q} 2>&1"


rule ledger:
    input:
        claims=expand(
            "results/{scale}/papers/{paper}/claims.json",
            scale=SCALE,
            paper=PROJECT.papers,
        ),
    output:
        csv=report(
            LEDGER,
            caption="../report/ledger.rst",
            category="Ledger",
            labels={"file": "claims"},
        ),
        json=str(SUMMARY / "claims.json"),
        summary=str(SUMMARY / "summary.json"),
    log:
        "logs/ledger.log",
    benchmark:
        "benchmarks/ledger.tsv"
    conda:
        "../../envs/conda.yaml"
    message:
        "writing the ledger"
    shell:
        "python scripts/ledger.py {input.claims:q} --out-csv {output.csv:q} --out-json {output.json:q}"
        " --out-summary {output.summary:q} > {log:q} 2>&1"
