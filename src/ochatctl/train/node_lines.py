"""The lines that start a run on several nodes: one to type on each, or a script for SLURM."""

from ochatctl.train.config import TrainConfig
from ochatctl.train.request import TrainRequest

PORT = 29500


def node_lines(request: TrainRequest) -> tuple[str, ...]:
    """Give the command for each node; none where there is only this one."""
    if request.nodes == 1:
        return ()
    where = request.rdzv or f"HOST:{PORT}"
    return tuple(request.command(node_rank=rank, rdzv=where) for rank in range(request.nodes))


def slurm_script(request: TrainRequest, config: TrainConfig) -> str:
    """Give a script for `sbatch`; SLURM's warning signal lets the run save before its time is over."""
    per_node = config.num_ranks // config.num_nodes
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={config.out_dir.name}",
        f"#SBATCH --nodes={config.num_nodes}",
        "#SBATCH --ntasks-per-node=1",
        *([] if config.device == "cpu" else [f"#SBATCH --gpus-per-node={per_node}"]),
        f"#SBATCH --cpus-per-task={per_node * (config.num_threads if config.device == 'cpu' else 8)}",
        f"#SBATCH --signal=USR1@{int(config.grace_seconds) + 60}",
        f"#SBATCH --output={config.out_dir.name}-%j.log",
        "# The same script again goes on from the last checkpoint.",
    ]
    gpus = {} if request.cpu and request.gpus is None else {"gpus": per_node}
    if config.num_nodes == 1:
        return "\n".join([*head, f"srun {request.command(**gpus)}"])
    # $SLURM_NODEID is each task's own, so it must stand unexpanded until the task's shell reads it.
    line = request.command(**gpus, node_rank=None, rdzv=None)
    return "\n".join(
        [
            *head,
            'export RDZV="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):' + f'{PORT}"',
            "srun bash -c '" + line.replace("'", "'\\''") + ' --node-rank "$SLURM_NODEID" --rdzv "$RDZV"' + "'",
        ]
    )
