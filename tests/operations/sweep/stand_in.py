"""What a sweep starts in place of `melody train`: logs a metric, takes its time, saves, fails, as its bindings say.

    python stand_in.py train lm ... --model_dir FOLDER [--set NAME=VALUE ...]

The metric "eval/loss" at step 10, 20, ..., 10 * `steps` is `x` (or `dropout`) + 1 / step. `fail=1` (or `b1=1`) ends with
exit code 1 after the first one. `delay` is in seconds a step. With `x` above `limit` it never ends by itself. Two at a time
in one folder are an error. Imports nothing of ours: it must start at once.
"""

import atexit
import json
import os
import pathlib
import signal
import sys
import time

ALIASES = {"dropout": "x", "b1": "fail", "TOTAL_STEPS": "steps"}
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--model_dir") + 1]) / "lm"
settings = {"x": 0.0, "delay": 0.0, "steps": 3, "fail": 0, "silent": 0, "limit": 1e9}
for binding in (words[index + 1] for index, word in enumerate(words) if word == "--set"):
    name, value = binding.split("=")
    name = name.rpartition(".")[2]
    settings[ALIASES.get(name, name)] = float(value)
folder.mkdir(exist_ok=True)
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.getppid()}\n")
(folder / "alone").touch(exist_ok=False)
atexit.register((folder / "alone").unlink)
stopped = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda received, frame: stopped.append(received))
saved = folder / "saved"
begin = int(saved.read_text()) if saved.exists() else 0
end = int(settings["steps"]) if settings["x"] <= settings["limit"] else 10**9
for step in range(begin + 1, end + 1):
    time.sleep(settings["delay"])
    if not settings["silent"]:
        with (folder / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps({"step": 10 * step, "split": "train", "loss": 99.0}) + "\n")
            metrics.write(json.dumps({"step": 10 * step, "split": "eval", "loss": settings["x"] + 1 / step}) + "\n")
    saved.write_text(str(step))
    if settings["fail"]:
        print("a first line\nerror: it went wrong\n")
        sys.exit(1)
    if stopped:
        sys.exit(128 + stopped[0])
