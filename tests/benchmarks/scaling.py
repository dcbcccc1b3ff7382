"""What the TPU compiler says of every stage at the published size, on slices of 16 to 1,024 chips.

    pip install 'melody_jax[aot]'
    python -m tests.benchmarks.scaling                                  # everything, hours of one core
    python -m tests.benchmarks.scaling --stage lm dpd --topology v5e:16x16
    python -m tests.benchmarks.scaling --stage mulan --topology v5e:16x16 --rows 16 \\
        --set mulan.MusicTowerConfig.activation=gelu_tanh

Runs `melody precompile` for each pair and prints a row of the table in docs/scaling.md as soon as it is known: bytes per
chip, milliseconds of computation, of communication, of the part of it that blocks, and of the step, MFU, and how long
compiling took. `--out` keeps the whole reports, one JSON file each; pairs that are there already are not compiled again.
"""

import argparse
import json
import pathlib
import subprocess
import sys

CHIPS = {"v5e:4x4": 16, "v5e:16x16": 256, "v5p:4x4x4": 64, "v6e:16x16": 256, "v5p:8x8x16": 1024}
ROWS = {"lm": 16, "dpd": 2, "mulan": 8, "semantic": 4, "autoencoder": 2}
"""Rows of the global batch for each chip."""
MESHES = {"v5e:4x4": "data=4,fsdp=4", "v5p:4x4x4": "data=16,fsdp=4"}
"""Where it is not data=-1,fsdp=16. The autoencoder's first maps have few channels, which fsdp cannot split: data=-1."""
COLUMNS = ("stage", "topology", "mesh", "batch", "parameters and optimiser (GB)", "peak (GB)", "HBM (GB)")
COLUMNS += ("computation (ms)", "communication (ms)", "of it blocking (ms)", "step (ms)", "MFU", "compiled in (s)")
TIMES = ("computation_seconds", "communication_seconds", "blocking_seconds", "seconds")


def row(report):
    """A line of the table."""
    held, gigabyte = report["held_bytes"], 1e9
    cells = [report["program"], report["topology"], report["mesh"], report["batch"]]
    cells += [f"{(held['parameters'] + held['optimiser']) / gigabyte:.2f}"]
    if "peak_bytes" not in report:
        return [*cells, "does not fit", f"{report['hbm_bytes'] / gigabyte:g}", *[""] * 6]
    cells += [f"{report['peak_bytes'] / gigabyte:.2f}", f"{report['hbm_bytes'] / gigabyte:g}"]
    cells += [f"{1000 * report[name]:.1f}" for name in TIMES]
    return [*cells, f"{report['mfu']:.1%}", f"{report['compile_seconds']:.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--topology", nargs="+", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--mesh", help="of all (default: see MESHES)")
    parser.add_argument("--rows", type=int, help="of the batch for each chip, of all stages (default: see ROWS)")
    parser.add_argument("--set", action="append", default=[], help="a binding, as of melody precompile")
    parser.add_argument("--out", default="scaling", help="folder of the reports")
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    for topology in args.topology:
        for stage in args.stage:
            rows = args.rows or ROWS[stage]
            path = out / ("_".join([stage, topology.replace(":", "_"), f"{rows}_rows", *args.set]) + ".json")
            if not path.exists():
                command = [sys.executable, "-m", "melody_jax.cli.main", "precompile", stage, "--topology", topology]
                mesh = "data=-1" if stage == "autoencoder" else MESHES.get(topology, "data=-1,fsdp=16")
                command += ["--mesh", args.mesh or mesh, "--batch_size", str(rows * CHIPS[topology]), "--json"]
                command += [word for binding in args.set for word in ("--set", binding)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode not in (0, 3):
                    why = (
                        done.stderr.strip().splitlines() or [f"ended with {done.returncode}; -9: out of memory here"]
                    )[-1]
                    print(f"| {stage} | {topology} | {why} |", flush=True)
                    continue
                path.write_text(done.stdout)
            print("| " + " | ".join(map(str, row(json.loads(path.read_text())))) + " |", flush=True)


if __name__ == "__main__":
    main()
