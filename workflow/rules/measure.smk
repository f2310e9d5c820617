"""Costs of models: published sizes on the meta device, finished runs on this machine."""


rule measure:
    input:
        run="results/{scale}/runs/{run}/seed{seed}/manifest.json",
        model=ancient("results/{scale}/runs/{run}/seed{seed}/model.safetensors"),
    output:
        measures="results/{scale}/runs/{run}/seed{seed}/measures.json",
    log:
        "logs/measure/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/measure/{scale}/{run}-seed{seed}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 64  # cut to what there is: alone on the machine, so that nothing else is timed with it
    resources:
        mem_mb=evaluate_mem_mb,
        runtime=evaluate_minutes,
    params:
        options=measure_options,
    message:
        "measuring {wildcards.run}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={threads} HF_HUB_OFFLINE=1 python scripts/measure.py --scale {wildcards.scale}"
        " --run {wildcards.run} --seed {wildcards.seed} > {log:q} 2>&1"


rule measure_structure:
    output:
        measurements=report(
            "results/structural/{paper}.json",
            caption="../report/structural.rst",
            category="Structural measurements",
            labels={"paper": "{paper}"},
        ),
    log:
        "logs/measure_structure/{paper}.log",
    benchmark:
        "benchmarks/measure_structure/{paper}.tsv"
    conda:
        "../../envs/conda.yaml"
    resources:
        mem_mb=structural_mem_mb,
        runtime=STRUCTURAL.runtime,
    params:
        fingerprint=structural_fingerprint,
    message:
        "measuring the models of {wildcards.paper} at their published size"
    shell:
        "OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python scripts/structural.py --paper {wildcards.paper} --out {output.measurements:q}"
        " > {log:q} 2>&1"
