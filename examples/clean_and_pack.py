"""From the sample chats to a packed dataset and the plan of its first epoch, with the library and no command line.

    python examples/clean_and_pack.py MODEL_DIR OUT_DIR

MODEL_DIR is a folder with a tokenizer that has `<|end_of_turn|>`, such as `ochatctl add-eot` writes.
"""

import sys
from pathlib import Path

import ochatctl
from ochatctl.data.build import PackConfig, pack_files
from ochatctl.data.clean import clean_files
from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.data.packing import pack, plan_epoch
from ochatctl.data.rules import choose_rules


def main(model_dir: Path, out_dir: Path) -> None:
    samples = Path(ochatctl.__file__).parent / "samples" / "chats.json"
    cleaned = clean_files([samples], out_dir / "chats.jsonl", rules=choose_rules(add=["class"]))
    print(f"cleaned: {cleaned.num_kept} of {cleaned.num_input} conversations kept")

    prefix = str(out_dir / "packed")
    packed = pack_files(
        PackConfig(data_path=out_dir / "chats.jsonl", model_dir=model_dir, prefix=prefix, family="openchat_v3.2")
    )
    print(f"packed: {packed.train.num_rows} rows, {packed.train.num_supervised_tokens} supervised tokens")

    dataset = open_dataset(split_path(prefix, "train"))
    longest = int(dataset.lengths.max())
    plan = plan_epoch(dataset.lengths, bin_tokens=2 * longest, bins_per_step=2, seed=0, epoch=0)
    print(f"planned: {len(plan.steps)} steps for 2 ranks, {plan.efficiency_ratio:.1%} full")

    step = plan.steps[0]
    weight = sum(float(dataset.step_weights[row]) for rows in step for row in rows)
    batch = pack([dataset.row(row) for row in step[0]], step_loss_weight=weight)
    print(f"first batch: {len(batch.cu_seqlens) - 1} conversations, {len(batch.input_ids_T)} tokens, no padding")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
