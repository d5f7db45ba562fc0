#!/bin/bash
# A task of the sweep @name@: takes one open trial after the other until none is left.
# Written by launch/slurm.py on @date@; runs the code kept in @snapshot@.
# @options@

submit_folder=@submit_folder@
sweep=@sweep@
code=@code@
logs=@logs@
workers=@workers@
signal_s=@signal_s@
stagger_s=@stagger_s@
worker=(
  @worker@
)

# ---- Signals. First of all, since a signal without a trap would end this script.
children=()  # process ids of the workers
stop=        # the signal that ends this task: USR1 (time is nearly up) or TERM (cancelled or preempted)
heard=       # set by every signal, so that a `wait` which a signal cut short is told from a child's end
pass() { for child in "${children[@]}"; do kill -s "$1" "$child" 2>/dev/null; done; }
trap 'heard=1; stop=${stop:-USR1}; pass USR1; pass TERM' USR1
trap 'heard=1; stop=TERM; pass TERM' TERM
unset "${!SQUEUE_@}"  # the user's filters would hide this task from it
task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
say() { echo "$(date +%FT%T) $task on ${SLURMD_NODENAME:-$HOSTNAME}: $*"; }
say "start ${SLURM_RESTART_COUNT:-0}"  # 0 at first, counted up by every requeue

# @setup@
cd "$submit_folder" || exit 1  # relative paths in the YAML mean what they meant at submission
export PYTHONPATH=$code${PYTHONPATH:+:$PYTHONPATH}  # the snapshot wins over an editable install
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
threads=$((cpus / workers > 1 ? cpus / workers : 1))  # else each worker starts a thread per core of the node
export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads

# ---- W&B's five folders, off $HOME and its quota, unless they are set already. Offline runs wait in the
# sweep's folder for launch/upload.py, and so does what they want to upload; caches die with this task.
scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/wandb-$USER-$task
mkdir -p "$scratch" 2>/dev/null || scratch=$sweep/slurm/wandb/scratch-$task
home_config=$HOME/.config/wandb/settings
if [ -z "$WANDB_CONFIG_DIR" ] && [ -f "$home_config" ]; then  # it names the server of `wandb login --host`
  mkdir -p "$scratch/config" && cp "$home_config" "$scratch/config/settings"
fi
export WANDB_DIR=${WANDB_DIR:-$sweep/slurm/wandb}
export WANDB_DATA_DIR=${WANDB_DATA_DIR:-$sweep/slurm/wandb/data}
export WANDB_ARTIFACT_DIR=${WANDB_ARTIFACT_DIR:-$sweep/slurm/wandb/artifacts}
export WANDB_CACHE_DIR=${WANDB_CACHE_DIR:-$scratch/cache}
export WANDB_CONFIG_DIR=${WANDB_CONFIG_DIR:-$scratch/config}
mkdir -p "$WANDB_DIR" "$WANDB_DATA_DIR" "$WANDB_ARTIFACT_DIR" "$WANDB_CACHE_DIR" "$WANDB_CONFIG_DIR"
export WANDB__SERVICE_WAIT=${WANDB__SERVICE_WAIT:-300}  # its service starts slowly from a shared file system

# ---- When this task has to end: newer SLURMs say it, else squeue does. No limit, no answer: 0.
end=$SLURM_JOB_END_TIME
if [ -z "$end" ]; then
  end=$(SLURM_TIME_FORMAT=standard squeue -h -j "$task" -o %e 2>/dev/null)
  end=$([ -z "$end" ] || date -d "$end" +%s 2>/dev/null)
fi
latest=$((${end:-0} > signal_s ? end - signal_s : 0))
if [ "$latest" -gt 0 ] && [ "$(date +%s)" -ge "$latest" ]; then  # it would be requeued for ever
  say "the time limit leaves nothing to train in: a longer --time, or less than --signal_s=$signal_s"
  exit 1
fi

# First starts are spread over some seconds, so that not all tasks read the file system at one moment.
[ "$stagger_s" -eq 0 ] || [ "${SLURM_RESTART_COUNT:-0}" -ne 0 ] || sleep $((SLURM_ARRAY_TASK_ID % stagger_s))

# ---- The workers. They write on after a requeue: every log is only ever appended to.
IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
((${#gpus[@]} <= workers)) || say "uses $workers of the ${#gpus[@]} GPUs that it sees: --gpus says how many"
for ((i = 0; i < workers; i++)); do
  [ -z "$stop" ] || break
  # one GPU each; where workers outnumber the GPUs they share
  ((${#gpus[@]} == 0)) || export CUDA_VISIBLE_DEVICES=${gpus[i % ${#gpus[@]}]}
  "${worker[@]}" --until="$latest" --parent=$$ >> "$logs/$task.worker-$i.out" 2>&1 &
  children+=($!)
  [ -z "$stop" ] || pass TERM  # the signal came between the two lines above
done

# ---- Wait until every worker is gone. Exit codes: 0 nothing is left to do; 75 trials are open still.
open=
failed=0
[ -z "$stop" ] || open=1
for i in "${!children[@]}"; do
  code=127
  while true; do
    heard=
    wait "${children[i]}"
    this=$?
    [ "$this" -eq 127 ] || code=$this  # 127: bash has told this child's code already
    [ -n "$heard" ] || break  # else it was a signal that ended `wait`, not the worker
  done
  say "worker $i ended with $code"
  if [ "$code" -eq 75 ] || { [ -n "$stop" ] && [ "$code" -gt 128 ]; }; then
    open=1
  elif [ "$code" -ne 0 ]; then
    failed=$code
    tail -n 5 "$logs/$task.worker-$i.out"
  fi
done
rm -rf "$scratch"

# ---- Back into the queue if trials are open, unless that is decided: after TERM this task was cancelled, or
# SLURM requeues it. It is no longer RUNNING then, even where the signal reached only the workers.
if [ -n "$open" ]; then
  for pause in 0 5 15 30; do  # slurmctld may be restarting
    sleep $pause
    [ "$stop" != TERM ] || break
    state=$(squeue -h -j "$task" -o %T 2>/dev/null)
    [ "${state:-RUNNING}" = RUNNING ] || break
    say "saved; back into the queue"
    scontrol requeue "$task" && exit 0
  done
  say "saved; not requeued from here"
  [ "$failed" -ne 0 ] || failed=75
fi
exit "$failed"
