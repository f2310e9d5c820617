"""A task's text tokenized once per tokenizer and length."""


rule prepare:
    input:
        unpack(prepare_inputs),
    output:
        manifest="assets/prepared/{prepared}/manifest.json",
    log:
        "logs/prepare/{prepared}.log",
    benchmark:
        "benchmarks/prepare/{prepared}.tsv"
    conda:
        "../../envs/conda.yaml"
    resources:
        mem_mb=prepare_mem_mb,
        runtime=PREPARATION.runtime,
    params:
        task=prepare_task,
        max_length=prepare_length,
        dataset=subpath(input.dataset, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        folder=subpath(output.manifest, parent=True),
    message:
        "tokenizing {wildcards.prepared}"
    shell:
        "HF_HUB_OFFLINE=1 python scripts/prepare.py --task {params.task:q} --dataset {params.dataset:q} --tokenizer {params.tokenizer:q}"
        " --max-length {params.max_length:q} --out {params.folder:q} > {log:q} 2>&1"
