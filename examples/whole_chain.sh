#!/usr/bin/env bash
# The lines that `ochatctl quickstart` prints, to run and change by hand: from sample chats to a served model, on a CPU.
# Everything is made under `runs/whole_chain`.
set -euo pipefail
samples=$(python -c 'from importlib.resources import files; print(files("ochatctl") / "samples")')

# Clean the chats: drop and count what is malformed, keep where each answer came from.
ochatctl data clean "$samples/chats.json" --out runs/whole_chain/chats.jsonl --rules plain --rule class --yes

# A small Llama from scratch. With a model of your own, leave this line out and name yours in the next one.
ochatctl make-base runs/whole_chain/chats.jsonl --out runs/whole_chain/base --yes

# Give it an end-of-turn token.
ochatctl add-eot runs/whole_chain/base --out runs/whole_chain/base-eot --family openchat_v3.2 --yes

# Turn the chats into token rows with loss weights.
ochatctl data pack runs/whole_chain/chats.jsonl --model runs/whole_chain/base-eot \
    --out runs/whole_chain/packed/chats --yes

# Train without padding, on two CPU processes. On GPUs, leave `--cpu` out.
ochatctl train --model runs/whole_chain/base-eot --data runs/whole_chain/packed/chats --out runs/whole_chain/run \
    --cpu --gpus 2 --strategy fsdp --epochs 30 --lr 4e-3 --batch-tokens 1024 --save-every 30 --resume no --yes

# Serve it until Ctrl-C. Meanwhile, elsewhere: python examples/client.py "What is ochatctl?"
ochatctl serve --model runs/whole_chain/run --engine hf --port 18888
