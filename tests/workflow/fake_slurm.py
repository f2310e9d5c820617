"""Stand-ins for SLURM's commands: they record how they were called and answer as a cluster would, without running anything."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

#: Command: its script. Every call becomes a line of $FAKE_SLURM/calls: time, command, arguments as a shell would read them.
SCRIPTS = {
    "sbatch": """
number=$(( $(cat "$FAKE_SLURM/number" 2>/dev/null || echo 100) + 1 )); echo $number > "$FAKE_SLURM/number"
last=; for word in "$@"; do case $word in --array=*) last=${word##*-};; esac; done
now=$(date +%s)
if [ -n "$last" ]; then for task in $(seq 1 $last); do echo $now > "$FAKE_SLURM/jobs/${number}_$task"; done
else echo $now > "$FAKE_SLURM/jobs/$number"; fi
echo $number
""",
    "sacct": """
case "$*" in *Reason*) exit 0;; *Account*) echo lab; exit 0;; esac
now=$(date +%s)
for job in $(ls "$FAKE_SLURM/jobs"); do
  age=$(( now - $(cat "$FAKE_SLURM/jobs/$job") ))
  if [ $age -lt ${FAKE_SECONDS:-0} ]; then echo "$job|RUNNING"; else echo "$job|${FAKE_STATE:-FAILED}"; fi
done
""",
    "sacctmgr": "echo lab",
    "sinfo": 'echo "PARTITION"; echo "default*"',
    "scontrol": 'echo "MaxArraySize = 1001"; echo "MinJobAge = 300 sec"',
    "squeue": "",
    "scancel": "",
    "sshare": "echo lab",
}


#: Flags that differ from call to call.
CHANGING = ("--job-name", "--output", "--comment", "-D", "--wrap")


@dataclass
class Submitted:
    """One call of sbatch: the rule it was for, its flags by name (True where they have no value), and as they were typed."""

    rule: str = ""
    flags: dict[str, str | bool] = field(default_factory=dict)
    typed: list[tuple[str, str]] = field(default_factory=list)

    def line(self) -> str:
        """Return the flags as they were typed, in order, without those that differ from call to call."""
        return " ".join(text for name, text in self.typed if name not in CHANGING)

    def add(self, name: str, value: str | bool, text: str) -> None:
        """Take one flag."""
        self.flags[name] = value
        self.typed.append((name, text))


class FakeSlurm:
    """A folder with the stand-ins, to be put in front of PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "jobs").mkdir()
        for name, script in SCRIPTS.items():
            path = folder / "bin" / name
            record = (
                '{ printf "%s %s" "$(date +%s.%N)" "' + name + '"; printf " %q" "$@"; echo; } >> "$FAKE_SLURM/calls"'
            )
            path.write_text(f"#!/bin/bash\nexec 9>>$FAKE_SLURM/lock; flock 9\n{record}\n{script}\n", encoding="utf-8")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment in which the stand-ins are found."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return {**kept, "PATH": path, "FAKE_SLURM": str(self.folder), **more}

    def calls(self) -> list[tuple[float, str, list[str]]]:
        """Return (time, command, arguments) of every call."""
        path = self.folder / "calls"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            moment, command, *arguments = shlex.split(line.replace("$'", "'"))
            found.append((float(moment), command, arguments))
        return found

    def submitted(self) -> list[Submitted]:
        """Return what was submitted, in order."""
        return [_read(arguments) for _, command, arguments in self.calls() if command == "sbatch"]


def _read(arguments: list[str]) -> Submitted:
    found = Submitted()
    words = iter(range(len(arguments)))
    for position in words:
        word = arguments[position]
        following = arguments[position + 1] if position + 1 < len(arguments) else "-"
        if word.startswith("--") and "=" in word:
            name, _, value = word.partition("=")
            found.add(name, value, word)
        elif following.startswith("-"):
            found.add(word, True, word)
        else:
            found.add(word, following, f"{word} {following}")
            next(words)
    found.rule = str(found.flags.get("--comment", "")).removeprefix("rule_").partition("_wildcards_")[0]
    return found


def available() -> bool:
    """Say whether the shell tools of the stand-ins are here."""
    return all(shutil.which(tool) for tool in ("bash", "flock"))
