"""How much memory reading takes: a checkpoint of gigabytes, read by a fresh process.

    python -m tests.convert.measure_memory DIRECTORY [--gigabytes 3] [--devices 1]

Not a test: it writes and reads gigabytes. It makes Emu3's architecture with an
embedding that is the largest tensor by far, in bfloat16, reads it into float32
parameters, and prints what the host held at most beyond the parameters, in units of the
largest tensor. Done when that is 1.3 at most.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from unimod_jax.convert import LAYOUTS, new_manifest, open_tensor_files, write_files
from unimod_jax.presets import preset

LARGEST_SHARE = 1.3
WIDTH = 2048
NUM_LAYERS = 12


def config_of(gigabytes):
    """Half of the bytes in the layers, a quarter each in the embedding and the head."""
    rows = int(gigabytes * 2**30 / 4 / (2 * WIDTH)) // 128 * 128
    of_layers = gigabytes * 2**30 / 2 / 2 / NUM_LAYERS
    hidden = int((of_layers - 2.5 * WIDTH**2) / (3 * WIDTH)) // 128 * 128
    return dataclasses.replace(
        preset("emu3").model,
        **{"width": WIDTH, "num_layers": NUM_LAYERS, "num_heads": 16},
        **{"num_kv_heads": 4, "feed_forward_hidden": hidden, "vocabulary_size": rows},
    )


def generate(directory, gigabytes):
    """Writes the checkpoint, random bytes of small numbers, one tensor at a time."""
    random, dtype = np.random.default_rng(0), np.dtype(ml_dtypes.bfloat16)
    table = LAYOUTS["emu3"].weights(config_of(gigabytes), 1)
    tensors = {entry.name: (entry.shape, dtype) for entry in table.values()}

    def draw(shape):
        # Exponents of at most 127: no infinities, no NaN.
        bits = random.integers(0, 0x3F80, shape, np.uint16)
        return bits.view(dtype)

    values = {
        name: lambda shape=shape: draw(shape) for name, (shape, _) in tensors.items()
    }
    write_files(new_manifest(tensors, 2**30), directory, values)


def memory(field):
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def read(directory, gigabytes, devices):
    """Reads the checkpoint and reports, as JSON."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from tests.convert.golden_models import row_layout
    from unimod_jax.convert import read_weights
    from unimod_jax.models import ModelSpec
    from unimod_jax.models.config import DENSE
    from unimod_jax.objectives import INTERLEAVED
    from unimod_jax.parallel import MeshConfig, make_mesh

    config = config_of(gigabytes)
    spec = ModelSpec(config, *DENSE, config.vocabulary_size, image_tokens=4)
    files = open_tensor_files(directory)
    table = LAYOUTS["emu3"].weights(config, 1)
    mesh = make_mesh(MeshConfig(fsdp=devices))
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    layouts = {INTERLEAVED: row_layout(spec)}
    params = read_weights(files, table, spec, layouts, mesh)["params"]
    peak = memory("VmHWM") - before
    local = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(files.num_bytes(name) for name in files.names)
    stored = sum(files.num_bytes(name) for name in files.names)
    beyond = (peak - local) / largest
    report = {"stored": stored, "largest": largest, "local": local, "peak": peak}
    print(json.dumps(report | {"beyond_in_largest": beyond}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    if options.read:
        read(options.directory, options.gigabytes, options.devices)
        return
    if not options.directory.exists():
        generate(options.directory, options.gigabytes)
    again = [sys.executable, "-m", "tests.convert.measure_memory", "--read"]
    more = ["--gigabytes", options.gigabytes, "--devices", options.devices]
    command = [*again, options.directory, *more]
    run = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True
    )
    report = json.loads(run.stdout)
    for name in ("stored", "largest", "local", "peak"):
        print(f"{name:8} {report[name] / 2**30:6.3f} GiB")
    print(f"beyond the parameters: {report['beyond_in_largest']:.3f} largest tensors")
    sys.exit(report["beyond_in_largest"] > LARGEST_SHARE)


if __name__ == "__main__":
    main()
