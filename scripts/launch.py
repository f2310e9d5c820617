"""Start a program with the GPUs, processes and nodes of its job: `python scripts/launch.py --gpus 2 -- scripts/train.py --scale …`."""

from replica.jobs import programs
from replica.jobs.launch import main

if __name__ == "__main__":
    programs.main(main)
