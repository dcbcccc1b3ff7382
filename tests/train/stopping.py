"""A host of a pod that takes steps of its own until it is told to stop. Run by `test_end.py`."""

import os
import time

from melody_jax.parallel import hosts
from melody_jax.train.end import StopSignals

if __name__ == "__main__":
    hosts.join()
    with StopSignals() as signals:
        print(f"ready {os.getpid()}", flush=True)
        for step in range(1, 6000):
            time.sleep(0.02)
            stop = signals.agreed(at_meeting=False)
            if stop:
                print(f"stopped by {stop} at {step} {time.time()}", flush=True)
                break
