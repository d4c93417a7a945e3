"""How much memory reading takes: a checkpoint of gigabytes, read by a fresh process.

    python -m tests.convert.measure_memory DIRECTORY [--gigabytes 3] [--devices 1]

Not a test: it writes and reads gigabytes. It makes Emu3's architecture with an
embedding that is the largest tensor by far, in bfloat16, reads it into float32
parameters, writes these as a converted directory holds them, and prints what the host
held at most beyond the parameters, in units of the largest tensor: while reading, and
in all. Done when that is 1.3 at most.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
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
    """Reads the checkpoint, writes its weights, and reports, as JSON."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from tests.convert.golden_models import row_layout
    from unimod_jax.convert import read_weights
    from unimod_jax.models import ModelSpec
    from unimod_jax.models.config import DENSE
    from unimod_jax.parallel import MeshConfig, make_mesh
    from unimod_jax.training.converted_weights import save_weights

    config = config_of(gigabytes)
    spec = ModelSpec(config, *DENSE, config.vocabulary_size, image_tokens=4)
    files = open_tensor_files(directory)
    table = LAYOUTS["emu3"].weights(config, 1)
    mesh = make_mesh(MeshConfig(fsdp=devices))
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    layouts = {"interleaved": row_layout(spec)}
    variables = read_weights(files, table, spec, layouts, mesh)
    reading = memory("VmHWM") - before
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        save_weights(Path(folder) / "weights", variables)
    report = {
        "stored": sum(files.num_bytes(name) for name in files.names),
        "largest": max(files.num_bytes(name) for name in files.names),
        "local": sum(leaf.nbytes for leaf in jax.tree.leaves(variables)),
        "reading": reading,
        "in all": memory("VmHWM") - before,
    }
    print(json.dumps(report))


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
    for name, num_bytes in report.items():
        print(f"{name:8} {num_bytes / 2**30:6.3f} GiB")
    beyond = [
        (report[peak] - report["local"]) / report["largest"]
        for peak in ("reading", "in all")
    ]
    print("beyond the parameters: {:.3f}, {:.3f} largest tensors".format(*beyond))
    sys.exit(beyond[-1] > LARGEST_SHARE)


if __name__ == "__main__":
    main()
