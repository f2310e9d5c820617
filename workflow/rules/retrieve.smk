"""Data sets and models by name; the only rules that may reach a network."""


localrules:
    retrieve_dataset,
    retrieve_model,


rule retrieve_dataset:
    output:
        manifest="assets/datasets/{asset}/manifest.json",
    log:
        "logs/retrieve_dataset/{asset}.log",
    benchmark:
        "benchmarks/retrieve_dataset/{asset}.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        folder="assets/datasets/{asset}",
        fingerprint=dataset_fingerprint,
    message:
        "retrieving data set {wildcards.asset}"
    shell:
        "python scripts/retrieve.py --dataset {wildcards.asset} --out {params.folder:q} > {log:q} 2>&1"


rule retrieve_model:
    output:
        manifest="assets/models/{asset}/manifest.json",
    log:
        "logs/retrieve_model/{asset}.log",
    benchmark:
        "benchmarks/retrieve_model/{asset}.tsv"
    conda:
        "../../envs/conda.yaml"
    params:
        folder="assets/models/{asset}",
        fingerprint=model_fingerprint,
    message:
        "retrieving model {wildcards.asset}"
    shell:
        "python scripts/retrieve.py --model {wildcards.asset} --out {params.folder:q} > {log:q} 2>&1"
