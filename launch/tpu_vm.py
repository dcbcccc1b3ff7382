"""TPU VMs through gcloud: create, ship the code, run everywhere, start again after preemption, delete."""

import re
import shlex
import time
from collections.abc import Sequence

from launch import code
from launch.job import Job
from launch.processes import InterruptError, LaunchError, Result, Runner
from launch.restarts import FINAL, HOPELESS, run_until_done
from melody_jax.errors import UserError

MOUNT = "/gcs"
POLL = 30.0
LOOK = 60.0
QUERY_LIMIT = 120.0
SHIP_LIMIT = 1800.0
DELETE_LIMIT = 900.0
DELETE_PAUSES = (10.0, 30.0, 60.0, 120.0, 300.0)
# Of nodes and of queued resources; none of them becomes ready again. A maintenance event passes through the others.
LOST = {"PREEMPTED", "TERMINATED", "SUSPENDING", "SUSPENDED", "STOPPING", "STOPPED", "FAILED", "DELETING", "NOT_FOUND"}

# Every worker prints its own exit code, so that the result does not depend on which one gcloud passes on.
EXIT_LINE = re.compile(r"melody launch: worker \S+ ended with exit code (\d+)")

GCSFUSE = """command -v gcsfuse > /dev/null || {
  packages=https://packages.cloud.google.com/apt
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS $packages/doc/apt-key.gpg | sudo tee $key > /dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=300 -qq install -y gcsfuse
}"""


def launch(job: Job, runner: Runner) -> int:
    """Runs the job on TPU VMs and returns its exit code. The VMs are deleted however it ends.

    Raises:
      UserError: the description lacks something.
      LaunchError: the VMs could not be created, or the job failed too often; InterruptError after a signal.
    """
    nodes = Nodes(job, runner)
    runner.need("gcloud")
    if not job.keeps_results:
        runner.say("the command names no bucket: what it writes is deleted with the VMs")
    archive = code.pack(job.code, f"{job.name}.tar.gz", runner)
    try:
        ended = run_until_done(lambda: nodes.attempt(str(archive)), job, runner)
    except InterruptError as interrupt:
        runner.finishing = True
        runner.say(f"{interrupt}; ending the run, then deleting {job.name}")
        nodes.stop()
        raise
    finally:
        runner.finishing = True
        deleted = nodes.delete()
    return ended if deleted else ended or 1


class Nodes:
    """The job's VMs, and what has been done to them."""

    def __init__(self, job: Job, runner: Runner):
        if job.tpu_vm is None:
            raise UserError("melody launch tpu-vm needs the key `tpu_vm`")
        if job.slices > 1 and not job.tpu_vm.queued:
            raise UserError("several slices come as a queued resource: set `tpu_vm.queued` to true")
        if job.tpu_vm.reservation and job.capacity != "reserved":
            raise UserError("`tpu_vm.reservation` needs the capacity `reserved`")
        if not job.tpu.is_vm:
            raise UserError(f"{job.accelerator} does not come as TPU VMs: use melody launch gke")
        self._job, self._target, self._runner = job, job.tpu_vm, runner
        self._tpu, self._words = job.tpu, job.words(MOUNT if job.bucket else "")
        # what was asked for, is ready, has the code, runs the command; and whether anything was ever ready
        self._exists = self._ready = self._shipped = self._running = False
        self._succeeded = False

    def attempt(self, archive: str) -> int:
        """Brings the job to its end on VMs that are made, or made again, where there are none. Returns its exit code.

        Raises:
          LaunchError: the first VMs could not be created, which no restart mends.
        """
        try:
            if not self._ready:
                self._create()
            if not self._shipped:
                self._ship(archive)
        except InterruptError:
            raise
        except LaunchError as error:
            if not self._succeeded:
                raise
            self._runner.say(str(error))
            ended = error.exit_code
        else:
            ended = self._run()
        if ended not in FINAL and (not self._ready or self._is_lost()):
            self._runner.say(f"{self._job.name} is not there any more; deleting what is left of it")
            if not self.delete():
                raise LaunchError(f"{self._job.name} cannot be created again before it is deleted")
        return ended

    def stop(self) -> None:
        """Ends what runs on the workers, with time for a checkpoint."""
        if self._running:
            self._runner.run(self._ssh(self._end_text()), limit=self._job.grace_seconds + QUERY_LIMIT)

    def delete(self) -> bool:
        """Deletes the VMs, with retries. False if they may still be there; then the user has been told what to run."""
        if not self._exists:
            return True
        argv = self._gcloud("delete", self._job.name, *(["--force"] if self._target.queued else []), "--quiet")
        self._runner.say(f"deleting {self._job.name}")
        for pause in (0.0, *DELETE_PAUSES):
            self._runner.pause(pause)
            done = self._runner.run(argv, limit=DELETE_LIMIT)
            if done.code == 0 or "NOT_FOUND" in done.err:
                self._exists = self._ready = self._shipped = False
                return True
            self._runner.say(f"{self._job.name} could not be deleted: {done.reason}")
        self._runner.say(f"{self._job.name} may still exist and cost money; delete it with: {shlex.join(argv)}")
        return False

    def _create(self) -> None:
        job, target = self._job, self._target
        argv = ["create", job.name]
        if target.queued:
            many = [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
            argv += many if job.slices > 1 else [f"--node-id={job.name}"]
        if self._tpu.is_default:
            argv += [f"--accelerator-type={job.accelerator}"]
        else:
            argv += [f"--type={job.accelerator.rpartition('-')[0]}", f"--topology={self._tpu.topology}"]
        version = "runtime-version" if target.queued else "version"
        argv += [f"--{version}={target.runtime_version}", "--quiet", *self._access()]
        if target.reservation:
            argv += [f"--reservation={target.reservation}"]
        elif job.capacity != "on-demand":
            argv += [f"--{job.capacity}"]
        self._runner.say(f"creating {job.name}: {job.slices} x {job.accelerator} in {target.zone}")
        self._exists = True  # also after a failure something may be there
        done = self._runner.run(self._gcloud(*argv), limit=60 * target.create_minutes)
        if "ALREADY_EXISTS" in done.err:
            self._exists = False
            raise LaunchError(f"{job.name} exists already in {target.zone}: wait for its end or take another `name`")
        self._must(done, "created")
        self._wait()
        self._ready = self._succeeded = True

    def _access(self) -> list[str]:
        """What the VMs may reach and be reached by."""
        target = self._target
        options = {
            "network": target.network,
            "subnetwork": target.subnetwork,
            "service-account": target.service_account,
            "scopes": ",".join(target.scopes),
        }
        given = [f"--{name}={value}" for name, value in options.items() if value]
        return [*given, *(["--internal-ips"] if target.internal_ips else [])]

    def _wait(self) -> None:
        ready = "ACTIVE" if self._target.queued else "READY"
        end = time.monotonic() + 60 * self._target.wait_minutes
        while (state := self._state(ready)) != ready:
            if state in LOST:
                raise LaunchError(f"{self._job.name} did not become ready: its state is {state}")
            if time.monotonic() > end:
                raise LaunchError(f"{self._job.name} was not ready after {self._target.wait_minutes:g} minutes")
            self._runner.say(f"{self._job.name} is {state or 'in an unknown state'}")
            self._runner.pause(POLL)

    def _ship(self, archive: str) -> None:
        job = self._job
        self._runner.say("copying the code to all workers and installing it")
        argv = self._gcloud("scp", archive, f"{job.name}:{job.name}.tar.gz", *self._everywhere())
        self._must(self._runner.run(argv, limit=SHIP_LIMIT), "reached to copy the code")
        lines = [f"mkdir -p {job.name}", f"tar -xzf {job.name}.tar.gz -C {job.name}", f"cd {job.name}"]
        if job.bucket:
            lines += [GCSFUSE, f"sudo mkdir -p {MOUNT}", f"sudo chown $USER {MOUNT}"]
            lines += [f"mountpoint -q {MOUNT} || gcsfuse --implicit-dirs {job.bucket.removeprefix('gs://')} {MOUNT}"]
        text = "\n".join(["set -e", *lines, *self._target.setup])
        self._must(self._runner.run(self._ssh(text), limit=SHIP_LIMIT), "set up")
        self._shipped = True

    def _run(self) -> int:
        codes: list[int] = []

        def read(text: str) -> None:
            if match := EXIT_LINE.search(text):
                codes.append(int(match[1]))

        env = [f"{name}={value}" for name, value in self._job.environment.items()]
        command = shlex.join(["env", *env, f".venv/bin/{self._words[0]}", *self._words[1:]])
        text = f"""cd {self._job.name}
{self._end_text()}
{self._start_text(command)}
echo "melody launch: worker $(hostname) ended with exit code $code"
exit $code"""
        self._runner.say(f"running {shlex.join(self._words)}")
        self._running = True
        code = self._runner.follow(self._ssh(text), line=read, lost=self._is_lost, every=LOOK)
        self._running = False
        return next((hopeless for hopeless in HOPELESS if hopeless in codes), max([code, *codes]))

    def _start_text(self, command: str) -> str:
        """Runs the command; what it says also goes to the bucket, a file for each start and worker.

        That is copied every minute: a file of a mounted bucket is there only once it is closed.
        """
        end = "wait $!; code=$?; rm -f run.pid"
        if not self._job.bucket:
            return f"{command} & echo $! > run.pid\n{end}"
        return f"""log=$(date +%Y%m%d-%H%M%S)-$(hostname).txt; kept={MOUNT}/logs/{self._job.name}
mkdir -p $kept; : > $log
{command} > $log 2>&1 & echo $! > run.pid; pid=$!
tail -n +1 -f --pid=$pid $log & shown=$!
while sleep 60; do cp -f $log $kept/$log; done > /dev/null 2>&1 & copies=$!
wait $pid; code=$?; rm -f run.pid; wait $shown
kill $copies; cp -f $log $kept/$log"""

    def _end_text(self) -> str:
        """Ends the run that an earlier connection left behind: a chip serves one process."""
        path = f"~/{self._job.name}/run.pid"
        return f"""if [ -s {path} ]; then
  pid=$(cat {path}); kill -TERM $pid; timeout {self._job.grace_seconds} tail --pid=$pid -f /dev/null; kill -KILL $pid
  rm -f {path}
fi 2> /dev/null"""

    def _is_lost(self) -> bool:
        return self._exists and self._state("") in LOST

    def _state(self, assumed: str) -> str:
        """The state that gcloud describes; empty where it does not answer."""
        what = "state.state" if self._target.queued else "state"
        argv = self._gcloud("describe", self._job.name, f"--format=value({what})")
        done = self._runner.run(argv, limit=QUERY_LIMIT, assumed=assumed)
        if done.code:
            return "NOT_FOUND" if "NOT_FOUND" in done.err else ""
        return done.out.strip()

    def _ssh(self, text: str) -> list[str]:
        # gcloud serves 64 workers at a time; a program over all chips needs all of them at once
        return self._gcloud("ssh", self._job.name, *self._everywhere(), "--batch-size=all", f"--command={text}")

    def _everywhere(self) -> Sequence[str]:
        node = ["--node=all"] if self._target.queued else []
        if self._target.iap:
            node += ["--tunnel-through-iap"]
        elif self._target.internal_ips:
            node += ["--internal-ip"]
        return [*node, "--worker=all", "--strict-host-key-checking=no", "--quiet"]

    def _gcloud(self, verb: str, *arguments: str) -> list[str]:
        group = "queued-resources" if self._target.queued else "tpu-vm"
        place = [f"--project={self._target.project}", f"--zone={self._target.zone}"]
        return ["gcloud", "compute", "tpus", group, verb, *arguments, *place]

    def _must(self, done: Result, what: str) -> None:
        if done.code:
            raise LaunchError(f"{self._job.name} could not be {what}: {done.reason}")
