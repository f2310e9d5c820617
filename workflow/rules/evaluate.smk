"""All tasks of a finished run in one process; predictions kept."""


rule evaluate:
    input:
        unpack(evaluation_inputs),
        model=ancient("results/{scale}/runs/{run}/seed{seed}/model.safetensors"),
    output:
        metrics="results/{scale}/runs/{run}/seed{seed}/metrics.json",
        predictions="results/{scale}/runs/{run}/seed{seed}/predictions.parquet",
    log:
        "logs/evaluate/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/evaluate/{scale}/{run}-seed{seed}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: evaluate_threads
    resources:
        mem_mb=evaluate_mem_mb,
        runtime=evaluate_minutes,
        gpu=evaluate_gpu,
    params:
        tasks=evaluation_tasks,
        metrics=evaluation_metrics,
    message:
        "evaluating {wildcards.run}, seed {wildcards.seed}: {params.tasks}"
    shell:
        "OMP_NUM_THREADS={threads} HF_HUB_OFFLINE=1 exec python scripts/launch.py --gpus {resources.gpu} -- scripts/evaluate.py"
        " --scale {wildcards.scale} --run {wildcards.run} --seed {wildcards.seed} > {log:q} 2>&1"
