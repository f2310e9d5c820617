"""Pretraining and full fine-tuning, and a teacher's signals stored once."""


rule train:
    input:
        unpack(run_inputs),
    output:
        manifest="results/{scale}/runs/{run}/seed{seed}/manifest.json",
        history="results/{scale}/runs/{run}/seed{seed}/history.jsonl",
        model="results/{scale}/runs/{run}/seed{seed}/model.safetensors",
    log:
        "logs/train/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/train/{scale}/{run}-seed{seed}.tsv"
    wildcard_constraints:
        run=r"(pretrain|teacher)-[a-z0-9-]+-[0-9a-f]{8}",
    priority: 10  # parents of many runs go first
    conda:
        "../../envs/conda.yaml"
    threads: run_threads
    resources:
        mem_mb=run_mem_mb,
        runtime=run_minutes,
        gpu=run_gpu,
        nodes=run_nodes,
        mpi=run_mpi,
        attempt=run_attempt,
    message:
        "training {wildcards.run}, seed {wildcards.seed}"
    shell:
        "OMP_NUM_THREADS={threads} HF_HUB_OFFLINE=1 exec python scripts/launch.py --gpus {resources.gpu} --nodes {resources.nodes}"
        " --minutes {resources.runtime} -- scripts/train.py --scale {wildcards.scale} --run {wildcards.run} --seed {wildcards.seed}"
        " --attempt {resources.attempt} > {log:q} 2>&1"


rule targets:
    input:
        unpack(run_inputs),
    output:
        manifest="results/{scale}/runs/{run}/seed{seed}/manifest.json",
        signals="results/{scale}/runs/{run}/seed{seed}/signals.safetensors",
    log:
        "logs/targets/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/targets/{scale}/{run}-seed{seed}.tsv"
    wildcard_constraints:
        run=r"targets-[a-z0-9-]+-[0-9a-f]{8}",
    priority: 10  # parents of many runs go first
    conda:
        "../../envs/conda.yaml"
    threads: run_threads
    resources:
        mem_mb=run_mem_mb,
        runtime=run_minutes,
        gpu=run_gpu,
        attempt=run_attempt,
    message:
        "storing a teacher's signals: {wildcards.run}"
    shell:
        "OMP_NUM_THREADS={threads} HF_HUB_OFFLINE=1 exec python scripts/launch.py --gpus {resources.gpu} -- scripts/targets.py"
        " --scale {wildcards.scale} --run {wildcards.run} --seed {wildcards.seed} --attempt {resources.attempt} > {log:q} 2>&1"
