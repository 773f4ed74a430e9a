"""`add-eot` on a large sharded model: time, peak anonymous memory, and bytes written against bytes linked.

Makes a random Llama in shards (streamed: no matrix is ever whole in memory), runs the command as a user does, samples
its anonymous memory from /proc, and compares the peak with the promise: at most twice the larger matrix and 300 MB
above what the imports take. Linux only.

    python benchmarks/add_eot.py                  2 GB
    python benchmarks/add_eot.py --gb 26          as large as 13B in bfloat16
    python benchmarks/add_eot.py --verify         compare logits too, which loads the model: no promise on memory
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY = 32_000
PROMISED_BYTES = 300_000_000
SHARD_BYTES = 400_000_000
IMPORTS = """
import sentencepiece, tokenizers, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
import ochatctl.vocab
print(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.1, help="size of the weights (10^9 bytes)")
    parser.add_argument("--hidden-size", type=int, default=4096)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--dir", help="where the folders are made (and removed); default: the system's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        base, out = Path(name) / "base", Path(name) / "out"
        print(f"making {args.gb} GB of random weights ...", flush=True)
        total_bytes, matrix_bytes, num_shards = make_model(base, int(args.gb * 1e9), args.hidden_size)
        imports_bytes = imports_level()
        command = [sys.executable, "-m", "ochatctl", "add-eot", str(base), "--out", str(out), "--json"]
        seconds, peak_bytes, report = run(command + ["--verify"] * args.verify)
    bound_bytes = 2 * matrix_bytes + PROMISED_BYTES
    above_bytes = peak_bytes - imports_bytes
    print(f"weights                 {total_bytes / 1e9:8.2f} GB in {num_shards} shards, bfloat16, untied")
    print(f"larger matrix           {matrix_bytes / 1e6:8.0f} MB")
    print(f"time                    {seconds:8.1f} s, imports and tokenizer included")
    print(f"rewritten               {report['rewritten_bytes'] / 1e9:8.2f} GB in {len(report['rewritten'])} files")
    print(f"linked                  {report['linked_bytes'] / 1e9:8.2f} GB in {len(report['linked'])} files")
    print(f"anonymous, imports      {imports_bytes / 1e6:8.0f} MB")
    print(f"anonymous, peak         {peak_bytes / 1e6:8.0f} MB, {above_bytes / 1e6:.0f} MB above the imports")
    print(f"promised above imports  {bound_bytes / 1e6:8.0f} MB: {'kept' if above_bytes <= bound_bytes else 'BROKEN'}")
    for check in report["checks"]:
        print(f"checked                 {check}")
    sys.exit(0 if args.verify or above_bytes <= bound_bytes else 1)


def make_model(folder: Path, total_bytes: int, hidden: int) -> tuple[int, int, int]:
    """Write the folder; give (bytes of weights, bytes of the larger matrix, number of shards)."""
    folder.mkdir()
    num_tokens = make_tokenizer(folder)
    inner = hidden * 2
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (num_tokens, hidden)}
    layer = 0
    # The head comes last, so that the two matrices lie in different shards.
    while size(shapes) + 2 * num_tokens * hidden < total_bytes:
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        layer += 1
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (num_tokens, hidden)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": num_tokens,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layer, "num_attention_heads": 32,
        "num_key_value_heads": 32, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and size(shards[-1]) + size({name: shape}) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = shape
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": size(shapes)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size(shapes), 2 * num_tokens * hidden, len(shards)


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size({name: shape})]}
        at += size({name: shape})
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = at // 2
        while left:
            count = min(left, 1 << 22)
            file.write((torch.randn(count) * 0.02).bfloat16().view(torch.uint8).numpy().tobytes())
            left -= count


def make_tokenizer(folder: Path) -> int:
    """Train byte-level BPE on made-up words; give its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rng = random.Random(0)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]
    words = ("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300_000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def size(shapes: dict[str, tuple[int, ...]]) -> int:
    """Give the bytes of bfloat16 tensors."""
    total = 0
    for shape in shapes.values():
        count = 2
        for side in shape:
            count *= side
        total += count
    return total


def imports_level() -> int:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


def run(command: list[str]) -> tuple[float, int, dict]:
    """Run a command; give (seconds, peak anonymous bytes, its JSON)."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except FileNotFoundError:
            break
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.002)
    text, _ = process.communicate()
    seconds = time.monotonic() - started
    if process.returncode:
        sys.exit(f"add-eot ended with exit code {process.returncode}")
    return seconds, peak, json.loads(text.splitlines()[-1])


if __name__ == "__main__":
    main()
