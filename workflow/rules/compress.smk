"""Distillation, pruning, quantization and binarization."""


use rule train as compress with:
    log:
        "logs/compress/{scale}/{run}-seed{seed}.log",
    benchmark:
        "benchmarks/compress/{scale}/{run}-seed{seed}.tsv"
    wildcard_constraints:
        run=r"compress-[a-z0-9-]+-[0-9a-f]{8}",
    message:
        "compressing: {wildcards.run}, seed {wildcards.seed}"
