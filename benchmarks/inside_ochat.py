"""What `ochat_loader.py` runs under ochat's own Python: its loader and its training step on a file of ours.

    inside_ochat.py PREFIX EXPECTED.npz STEPS       prints one JSON document as its last line

Real, and ochat's: `ParquetDataset`, `MultipackDistributedDataloader`, `create_dataset`, `batch_to_tensor`,
`create_distributed_dataloader`, `calculate_auto_lr`, the schedule, the unpadded `LlamaForCausalLM` with its
`weighted_cross_entropy`. Not real: `flash_attn`, which has no CPU version, is a stub of the one function that the model
calls (PyTorch's attention, sequence by sequence); DeepSpeed's engine and NCCL are plain AdamW in one process over gloo;
the model is a tiny random one.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
import types

import numpy as np
import torch
import torch.distributed

REPLICAS = 2


def attend(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, causal):
    assert causal
    assert dropout_p == 0
    out = torch.empty_like(q)
    bounds = cu_seqlens_q.tolist()
    for start, end in itertools.pairwise(bounds):
        one = [x[start:end].transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
        out[start:end] = torch.nn.functional.scaled_dot_product_attention(*one, is_causal=True)[0].transpose(0, 1)
    return out


def stub_flash_attention():
    package, interface, padding = (
        types.ModuleType(f"flash_attn{name}") for name in ("", ".flash_attn_interface", ".bert_padding")
    )
    interface.flash_attn_varlen_func = attend
    padding.pad_input = None
    sys.modules.update({module.__name__: module for module in (package, interface, padding)})


def main():
    prefix, expected_path, num_steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    stub_flash_attention()
    with tempfile.NamedTemporaryFile() as meeting:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting.name}", rank=0, world_size=1)
    from ochat.training_deepspeed import train

    train.LOCAL_RANK = 1  # so that it prints nothing
    args = argparse.Namespace(data_path=prefix, batch_size_per_gpu=1, epochs=1, lr=None)
    args.lr_warmup_ratio, args.lr_min_ratio = 0.05, 0.1
    dataset = train.create_dataset(args, "train")
    args.model_type = dataset.metadata["model_type"]
    rows = read_expected(expected_path)
    report = {"metadata": {"model_type": args.model_type}, "rows": check_rows(dataset, rows)}
    report["batches"] = check_batches(train, dataset, rows)
    report["training"] = check_training(train, args, dataset, num_steps)
    print(json.dumps(report))


def read_expected(path):
    """Give our rows: (ids, labels, weights) each."""
    table = np.load(path)
    bounds = np.cumsum(table["lengths"])[:-1]
    return list(zip(*(np.split(table[name], bounds) for name in ("ids", "labels", "weights")), strict=True))


def check_rows(dataset, rows):
    assert len(dataset) == len(rows), (len(dataset), len(rows))
    for index, (ids, labels, weights) in enumerate(rows):
        row = dataset[[index]].to_pylist()[0]
        assert row["total_length"] == len(ids)
        assert row["seqlens"] == [len(ids)]
        assert row["nz_input_ids"] == ids.tolist()
        assert row["nz_position_ids"] == list(range(len(ids)))
        assert row["nz_shifted_label_ids"] == labels.tolist()
        assert row["nz_shifted_loss_weights"] == weights.tolist()
        assert math.isclose(row["num_seqs"], float(weights.sum(dtype=np.float64)), rel_tol=1e-6)
    return len(rows)


def check_batches(train, dataset, rows):
    """Walk an epoch on each of two ranks; each batch is our rows, joined and padded to a multiple of 64."""
    capacity = train.MODEL_CONFIG_MAP[dataset.metadata["model_type"]].model_max_context
    seen, num_batches, totals = [], 0, []
    for rank in range(REPLICAS):
        loader = train.MultipackDistributedDataloader(
            dataset=dataset, lengths=dataset["total_length"], numseqs=dataset["num_seqs"],
            batch_max_length=capacity, collate_fn=train.batch_to_tensor,
            num_replicas=REPLICAS, rank=rank, seed=0,
        )  # fmt: skip
        chosen = loader.generate_batches()[0]
        own = []
        for indices, ((tensors, info), all_weight, own_weight) in zip(chosen, loader, strict=True):
            ids, labels, weights = (np.concatenate([rows[i][part] for i in indices]) for part in range(3))
            lengths = [len(rows[i][0]) for i in indices]
            padding = -len(ids) % 64
            assert len(ids) <= capacity
            same(tensors["nz_input_ids"], np.pad(ids, (0, padding)))
            same(tensors["nz_shifted_label_ids"], np.pad(labels, (0, padding), constant_values=-100))
            positions = np.concatenate([np.arange(length) for length in lengths])
            same(tensors["nz_position_ids"], np.pad(positions, (0, padding)))
            bf16 = torch.from_numpy(np.pad(weights, (0, padding))).bfloat16()
            assert torch.equal(tensors["nz_shifted_loss_weights"], bf16)
            ends = np.cumsum([0, *lengths, *([padding] if padding else [])])
            same(tensors["cu_seqlens"], ends)
            assert info["max_seqlen"] == max(*lengths, padding)
            assert math.isclose(own_weight, weights.sum(dtype=np.float64), rel_tol=1e-5)
            own.append((float(all_weight), float(own_weight)))
            seen += list(indices)
            num_batches += 1
        totals.append(own)
    for steps in zip(*totals, strict=True):
        assert math.isclose(steps[0][0], sum(weight for _, weight in steps), rel_tol=1e-5)
    assert len(seen) == len(set(seen))
    return {
        "batches": num_batches,
        "ranks": REPLICAS,
        "rows": len(seen),
        "dropped_rows": len(rows) - len(seen),
    }


def same(tensor, array):
    assert np.array_equal(tensor.numpy(), array)


def check_training(train, args, dataset, num_steps):
    import transformers
    from ochat.models.unpadded_llama import LlamaForCausalLM

    largest = max(int(values.max()) for values in dataset["nz_input_ids"])
    config = transformers.LlamaConfig(
        vocab_size=largest + 1, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=4096, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    loader = train.create_distributed_dataloader(args, dataset)
    (tensors, info), all_weight, _ = next(iter(loader))
    wide = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    with torch.no_grad():
        packed = model(**wide, **info).loss.item() / float(all_weight)
        alone = one_by_one(transformers, model, config, wide) / float(all_weight)
    assert math.isclose(packed, alone, rel_tol=1e-4), (packed, alone)
    args.lr = 1e-2  # its own estimate is for 7B; the tiny model learns more quickly
    estimate = train.calculate_auto_lr(None, args.batch_max_len, dataset)
    model = model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-5)
    schedule = train.create_lr_scheduler(args, num_steps)
    losses = []
    while len(losses) < num_steps:
        for (tensors, info), all_weight, _ in loader:
            # From here on as its training loop goes, with a plain optimizer for the engine.
            loss = (1 / all_weight) * model(**tensors, **info).loss
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = args.lr * schedule(len(losses) + 1)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == num_steps:
                break
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3]), losses
    return {
        "losses": [round(loss, 3) for loss in losses], "uniform": round(math.log(largest + 1), 3),
        "auto_lr": estimate, "packed_loss": packed, "one_by_one_loss": alone,
    }  # fmt: skip


def one_by_one(transformers, model, config, tensors):
    """Give the same batch's loss from transformers' own Llama, a sequence at a time."""
    plain = transformers.LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict(), strict=False)
    total = 0.0
    bounds = tensors["cu_seqlens"].tolist()
    for start, end in itertools.pairwise(bounds):
        logits = plain(tensors["nz_input_ids"][None, start:end]).logits[0]
        each = torch.nn.functional.cross_entropy(logits, tensors["nz_shifted_label_ids"][start:end], reduction="none")
        total += float((each * tensors["nz_shifted_loss_weights"][start:end]).sum())
    return total


if __name__ == "__main__":
    main()
