"""Fine-tuning for a task, in full or efficiently."""


use rule train as adapt with:
    log:
        "logs/adapt/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/adapt/{scale}/{run}-seed{seed}.tsv"
    wildcard_constraints:
        run=r"adapt-[a-z0-9-]+-[0-9a-f]{8}",
    message:
        "adapting: {wildcards.run}, seed {wildcards.seed}"
