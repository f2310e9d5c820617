#!/usr/bin/env bash
# slurm-up.sh DIR: a private SLURM on this machine: munge, mariadb, slurmdbd, slurmctld, two slurmd. Everything lives in DIR; nothing outside
# it is written. The processes are listed in DIR/pids (pid and start time), slurm-down.sh ends them. Then: source DIR/env.sh
#
# Two cores pose as CPUS, the memory as MEM megabytes, and device files as GPUS graphics processors. Partitions: cpu, gpu and long are never
# preempted; scavenge is, by any job of the others. A job step that outgrows its memory is killed within about a second. Jobs of the partition
# mortal go to a second node, `mortal`, while it is up (its slurmd: DIR/run/mortal.pid), else to the first.
set -euo pipefail
DIR=${1:?usage: slurm-up.sh DIR}
CPUS=${CPUS:-16} MEM=${MEM:-100000} GPUS=${GPUS:-2} PORT=${PORT:-16817}
HOST=$(hostname -s) WHO=$(id -un)
export PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$DIR"/{ctld,spool,log,munge,mysql,run,bin}
chmod 755 "$DIR" "$DIR/run"; chmod 700 "$DIR/munge"
: > "$DIR/pids"

started() { # PID: remember the process and when it began, so that a number given out again is not mistaken for it
  echo "$1 $(cut -d' ' -f22 "/proc/$1/stat")" >> "$DIR/pids"
}
until_ok() { # TRIES COMMAND...: repeat every 0.1 s
  local tries=$1; shift
  for _ in $(seq "$tries"); do "$@" >/dev/null 2>&1 && return 0; sleep .1; done
  echo "error: gave up waiting for: $*; logs in $DIR/log" >&2; return 1
}

# munge with its own key and socket
[ -s "$DIR/munge/key" ] || { dd if=/dev/urandom of="$DIR/munge/key" bs=1024 count=1 status=none; chmod 400 "$DIR/munge/key"; }
munged --force --key-file="$DIR/munge/key" --socket="$DIR/run/munge.sock" --pid-file="$DIR/munge/munged.pid" \
  --log-file="$DIR/munge/munged.log" --seed-file="$DIR/munge/seed" --num-threads=2
started "$(cat "$DIR/munge/munged.pid")"

# The accounting plugin ignores a private munge socket unless AccountingStoragePass names it; a requeued job waits for cred_expire seconds
# before it starts again; config_overrides lets a small machine pose as a larger one.
cat > "$DIR/slurm.conf" <<C
ClusterName=replica
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT+1))
SlurmUser=$WHO
SlurmdUser=$WHO
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=15
CredType=cred/munge
StateSaveLocation=$DIR/ctld
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
MinJobAge=600
InactiveLimit=0
MessageTimeout=60
BatchStartTimeout=60
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((PORT+2))
AccountingStoragePass=$DIR/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
NodeName=$HOST NodeAddr=127.0.0.1 Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 CPUs=$CPUS RealMemory=$MEM Gres=gpu:$GPUS Weight=2 State=UNKNOWN
NodeName=mortal NodeAddr=127.0.0.1 Port=$((PORT+4)) Sockets=1 CoresPerSocket=1 ThreadsPerCore=1 CPUs=1 RealMemory=8000 Weight=1 State=UNKNOWN
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=7-00:00:00 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=gpu Nodes=$HOST MaxTime=7-00:00:00 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=long Nodes=$HOST MaxTime=28-00:00:00 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=mortal Nodes=mortal,$HOST MaxTime=7-00:00:00 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=scavenge Nodes=$HOST MaxTime=7-00:00:00 DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 State=UP
C
# A stand-in GPU has to be a device file; nothing is ever written to it.
FILES=(/dev/null /dev/zero /dev/full /dev/random)
for i in $(seq 0 $((GPUS-1))); do echo "NodeName=$HOST Name=gpu File=${FILES[$i]}"; done > "$DIR/gres.conf"

# accounting
[ -d "$DIR/mysql/mysql" ] || mariadb-install-db --no-defaults --user="$WHO" --datadir="$DIR/mysql" \
  --auth-root-authentication-method=normal --skip-test-db >"$DIR/log/mysql-init.log" 2>&1
mariadbd --no-defaults --user="$WHO" --datadir="$DIR/mysql" --socket="$DIR/run/mysql.sock" --pid-file="$DIR/run/mysql.pid" \
  --bind-address=127.0.0.1 --port=$((PORT+3)) --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
  >"$DIR/log/mysql.log" 2>&1 &
started $!
SQL=(mariadb --no-defaults -u root -S "$DIR/run/mysql.sock")
until_ok 200 "${SQL[@]}" -e 'select 1'
"${SQL[@]}" -e "create database if not exists slurm_acct_db;
  create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm'; grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
  create user if not exists 'slurm'@'localhost' identified by 'slurm'; grant all on slurm_acct_db.* to 'slurm'@'localhost';"
cat > "$DIR/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.sock
DbdHost=localhost
DbdPort=$((PORT+2))
SlurmUser=$WHO
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT+3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
C
chmod 600 "$DIR/slurmdbd.conf"

# Snakemake's plugin takes SLURM_* out of a job's environment before it calls srun, but leaves PATH: commands that bring their own
# configuration stand first in it, so that no file below /etc is needed and two private clusters can run side by side.
cat > "$DIR/bin/srun" <<C
#!/bin/sh
SLURM_CONF=$DIR/slurm.conf exec /usr/bin/\$(basename "\$0") "\$@"
C
chmod 755 "$DIR/bin/srun"
for name in sbatch squeue sacct sacctmgr scancel scontrol sinfo; do ln -sf srun "$DIR/bin/$name"; done
printf 'export SLURM_CONF=%s\nexport PATH=%s:$PATH\n' "$DIR/slurm.conf" "$DIR/bin" > "$DIR/env.sh"
. "$DIR/env.sh"

slurmdbd -D >"$DIR/log/slurmdbd.out" 2>&1 &
started $!
until_ok 200 sacctmgr -n -i list cluster
sacctmgr -n -i add cluster replica >/dev/null 2>&1 || true
sacctmgr -n -i add account lab Cluster=replica >/dev/null 2>&1 || true
sacctmgr -n -i add user "$WHO" Account=lab >/dev/null 2>&1 || true
slurmctld -D -f "$SLURM_CONF" >"$DIR/log/slurmctld.out" 2>&1 &
started $!
up() { scontrol ping | grep -q UP; }
until_ok 100 up
for node in "$HOST" mortal; do
  slurmd -D -f "$SLURM_CONF" -N "$node" >"$DIR/log/slurmd-$node.out" 2>&1 &
  started $!
done
ready() { [ "$(sinfo -h -N -o '%N %t' | sort -u | grep -cE ' (idle|mix|alloc)$')" = 2 ]; }
until_ok 100 ready
sinfo -o "%P %a %T %D %N %G"
