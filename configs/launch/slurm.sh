#!/bin/bash
# One process on each host of a SLURM job, all GPUs of the host in it: sbatch --nodes=4 configs/launch/slurm.sh CONFIG.yaml [KEY=VALUE ...]
# Where a process fails, or a host, the others end within the time limit and so does the job; the same command, given again,
# resumes the run from its last checkpoint. run_dir, the model and the data have to be where all hosts see them.
#SBATCH --job-name=jaxprompt
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=jaxprompt-%j.out
# jaxprompt finds the other processes by the variables of srun, which numbers them.
srun --kill-on-bad-exit=1 "${JAXPROMPT:-jaxprompt}" train "$@" --timeout "${TIMEOUT:-300}"
