#!/usr/bin/env bash
# slurm-down.sh DIR: cancels the jobs of the private SLURM in DIR and ends its processes, newest first; no others.
DIR=${1:?usage: slurm-down.sh DIR}
[ -f "$DIR/pids" ] || exit 0
if [ -f "$DIR/env.sh" ]; then
  . "$DIR/env.sh"
  if timeout 5 scontrol ping 2>/dev/null | grep -q UP; then
    timeout 10 scancel --user="$(id -un)" 2>/dev/null
    for _ in $(seq 150); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep .1; done
  fi
fi
alive() { # PID START: it runs, and is not another process that was given its number since
  [ "$(cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null)" = "$2" ]
}
tac "$DIR/pids" | while read -r pid start; do
  alive "$pid" "$start" && kill "$pid"
  for _ in $(seq 100); do alive "$pid" "$start" || break; sleep .1; done
  if alive "$pid" "$start"; then kill -9 "$pid"; fi
done
rm -f "$DIR/pids"
exit 0
