"""TPU VMs against a recording gcloud: restarts, preemption, failures, deletion always."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from launch import job as descriptions
from launch import processes, tpu_vm
from launch.processes import Runner

FIRST = ["create", "describe", "scp", "setup", "run"]
TARGET = {"project": "p", "zone": "z", "runtime_version": "v2"}


def argv(cloud, kind, index=0):
    return [call["argv"] for call in cloud.calls() if call["kind"] == kind][index]


def ended(code, worker="host-0"):
    return f"melody launch: worker {worker} ended with exit code {code}"


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def one_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_commands(cloud):
    assert cloud.launch("tpu-vm", capacity="spot") == 0
    place = ["--project=p", "--zone=z"]
    what = ["--accelerator-type=v5litepod-16", "--version=v2", "--quiet", "--spot"]
    assert argv(cloud, "create") == ["gcloud", "compute", "tpus", "tpu-vm", "create", "test-run", *what, *place]
    assert {"--worker=all", "--batch-size=all"} < set(argv(cloud, "run"))
    assert argv(cloud, "delete")[4:] == ["delete", "test-run", "--quiet", *place]


def test_several_slices_are_one_queued_resource(cloud, capsys):
    queued = TARGET | {"queued": True}
    assert cloud.launch("tpu-vm", slices=2, tpu_vm=queued, accelerator="v5p-256", topology="2x8x8") == 0
    assert {"queued-resources", "--node-count=2", "--node-prefix=test-run"} < set(argv(cloud, "create"))
    assert {"--type=v5p", "--topology=2x8x8"} < set(argv(cloud, "create"))
    assert all({"--node=all", "--worker=all"} < set(argv(cloud, kind)) for kind in ("scp", "setup", "run"))
    assert "--force" in argv(cloud, "delete")
    assert cloud.launch("tpu-vm", slices=2) == 2
    assert "tpu_vm.queued" in one_line(capsys)


def test_network_account_and_reservation(cloud, capsys):
    target = TARGET | {
        "queued": True, "network": "n", "subnetwork": "s", "internal_ips": True, "service_account": "a@b",
        "scopes": ["x", "y"], "reservation": "projects/p/locations/z/reservations/r",
    }  # fmt: skip
    assert cloud.launch("tpu-vm", tpu_vm=target, capacity="reserved") == 0
    given = {"--network=n", "--subnetwork=s", "--internal-ips", "--service-account=a@b", "--scopes=x,y"}
    created = set(argv(cloud, "create"))
    assert given | {"--reservation=projects/p/locations/z/reservations/r", "--runtime-version=v2"} < created
    assert not {"--reserved", "--version=v2"} & created
    assert all("--internal-ip" in argv(cloud, kind) for kind in ("scp", "setup", "run"))
    cloud.forget()
    assert cloud.launch("tpu-vm", tpu_vm=TARGET | {"internal_ips": True, "iap": True}) == 0
    assert all("--tunnel-through-iap" in argv(cloud, kind) for kind in ("scp", "setup", "run"))
    for message, changes in {
        "needs a queued resource": {"tpu_vm": TARGET | {"reservation": "r"}, "capacity": "reserved"},
        "needs the capacity `reserved`": {"tpu_vm": target, "capacity": "spot"},
        "does not come as TPU VMs": {"accelerator": "tpu7x-8"},
    }.items():
        assert cloud.launch("tpu-vm", **changes) == 2
        assert message in one_line(capsys)


def test_what_a_worker_says_is_kept_in_the_bucket(cloud, tmp_path, monkeypatch):
    """The shell text that every worker runs, run here, with a folder in the bucket's place."""
    monkeypatch.setattr(tpu_vm, "MOUNT", str(tmp_path / "bucket"))
    assert cloud.launch("tpu-vm", command="python -c 1") == 0
    text = next(word for word in argv(cloud, "run") if word.startswith("--command=")).removeprefix("--command=")
    home = tmp_path / "home"
    tool = home / "test-run" / ".venv" / "bin" / "python"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho said; echo wrong >&2; exit 7\n")
    tool.chmod(0o755)
    environment = os.environ | {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", text], cwd=home, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and "ended with exit code 7" in done.stdout
    assert "said\nwrong\n" in done.stdout
    (log,) = (tmp_path / "bucket" / "logs" / "test-run").iterdir()
    assert log.read_text() == "said\nwrong\n"
    assert not (home / "test-run" / "run.pid").exists()


def test_a_checkpointed_stop_is_restarted_on_the_same_machines(cloud, capsys):
    cloud.answer(run=[{"code": 143, "out": ended(143)}, {"code": 1}, {"out": "trained"}])
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds() == [*FIRST, "describe", "run", "describe", "run", "delete"]
    shown = capsys.readouterr().out
    assert "trained" in shown and "exit code 143; restart 1 of 3 in 0.01 s" in shown
    assert "exit code 1; restart 2 of 3 in 0.02 s" in shown
    log = Path("runs/launch/test-run/log.txt").read_text()
    assert "trained" in log and "restart 2 of 3" in log


def test_backoff_really_waits(cloud, monkeypatch):
    pauses = []
    monkeypatch.setattr(Runner, "pause", lambda _, seconds: pauses.append(seconds))
    cloud.answer(run=[{"code": 143}])
    assert cloud.launch("tpu-vm") == 143
    assert [pause for pause in pauses if pause] == [0.01, 0.02, 0.03]


@pytest.mark.parametrize(("answer", "code"), [({"code": 139}, 139), ({"signal": 9}, 137)])
def test_restarts_end(answer, code, cloud, capsys):
    cloud.answer(run=[answer])
    assert cloud.launch("tpu-vm") == code
    assert cloud.kinds().count("run") == 4 and cloud.kinds()[-1] == "delete"
    assert "failed 4 times in a row" in one_line(capsys)


def test_a_long_run_starts_the_count_anew(cloud):
    cloud.answer(run=[{"code": 1}] * 6 + [{}])
    assert cloud.launch("tpu-vm", backoff={"first": 0.0, "reset": 0.0}) == 0
    assert cloud.kinds().count("run") == 7


@pytest.mark.parametrize("final", [2, 4])
@pytest.mark.parametrize("alone", [False, True])
def test_what_a_restart_does_not_mend_is_not_restarted(final, alone, cloud):
    one_of_two = {"code": 143, "out": f"{ended(143)}\n{ended(final, 'host-1')}"}
    cloud.answer(run=[{"code": final} if alone else one_of_two])
    assert cloud.launch("tpu-vm") == final
    assert cloud.kinds() == [*FIRST, "delete"]


def test_a_worker_s_exit_code_counts_where_gcloud_says_nothing(cloud):
    cloud.answer(run=[{"code": 0, "out": f"{ended(0)}\n{ended(143, 'host-1')}"}, {}])
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds().count("run") == 2


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED", "SUSPENDED"])
def test_preempted_machines_are_made_again(state, cloud):
    cloud.answer(run=[{"code": 255}, {}], describe=[{"out": "READY"}, {"out": state}, {"out": "READY"}])
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds() == [*FIRST, "describe", "delete", *FIRST, "delete"]


def test_machines_that_are_gone_are_made_again(cloud):
    gone = {"code": 1, "err": "ERROR: (gcloud) NOT_FOUND: Resource was not found"}
    cloud.answer(run=[{"code": 255}, {}], describe=[{"out": "READY"}, gone, {"out": "READY"}], delete=[gone])
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds() == [*FIRST, "describe", "delete", *FIRST, "delete"]


@pytest.fixture
def patience(cloud, monkeypatch):
    """A clock by which all time limits have passed as soon as a command hangs, and not before."""

    class Clock:
        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic():
            child = cloud.bin / "child"
            return time.monotonic() + (1e6 if child.exists() and child.read_text() else 0.0)

    monkeypatch.setattr(processes, "time", Clock)


def test_preemption_is_seen_while_ssh_hangs(cloud, patience):
    states = [{"out": "READY"}, {"out": "PREEMPTED"}, {"out": "PREEMPTED"}, {"out": "READY"}]
    cloud.answer(run=[{"hang": True}, {}], describe=states)
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds() == [*FIRST, "describe", "describe", "delete", *FIRST, "delete"]
    assert not alive(int((cloud.bin / "child").read_text()))


def test_capacity_that_is_slow_to_come_back_is_asked_for_again(cloud):
    cloud.answer(
        create=[{}, {"code": 1, "err": "ERROR: no capacity"}, {}],
        run=[{"code": 255}, {}],
        describe=[{"out": "READY"}, {"out": "PREEMPTED"}, {"out": "READY"}],
    )
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds() == [*FIRST, "describe", "delete", "create", "delete", *FIRST, "delete"]


def test_a_failed_creation_is_deleted_all_the_same(cloud, capsys):
    cloud.answer(create=[{"code": 1, "err": "\nERROR: (gcloud) RESOURCE_EXHAUSTED: quota\n\n"}])
    assert cloud.launch("tpu-vm") == 1
    assert cloud.kinds() == ["create", "delete"]
    assert "could not be created: ERROR: (gcloud) RESOURCE_EXHAUSTED: quota" in one_line(capsys)
    log = Path("runs/launch/test-run/log.txt").read_text()
    assert "$ gcloud compute tpus tpu-vm create test-run" in log and "\nexit code 1\n" in log


def test_somebody_else_s_machines_are_left_alone(cloud, capsys):
    cloud.answer(create=[{"code": 1, "err": "ERROR: (gcloud) ALREADY_EXISTS: test-run"}])
    assert cloud.launch("tpu-vm") == 1
    assert cloud.kinds() == ["create"]
    assert "exists already in z" in one_line(capsys)


def test_a_hanging_creation_is_killed_with_its_children(cloud, capsys, patience):
    cloud.answer(create=[{"hang": True}])
    assert cloud.launch("tpu-vm") == 1
    assert cloud.kinds() == ["create", "delete"]
    assert "no answer in time" in one_line(capsys)
    assert not alive(cloud.calls()[0]["pid"]) and not alive(int((cloud.bin / "child").read_text()))


@pytest.mark.parametrize(("state", "words"), [("FAILED", "its state is FAILED"), ("SUSPENDED", "SUSPENDED")])
def test_a_queued_resource_that_is_never_granted(state, words, cloud, capsys):
    cloud.answer(describe=[{"out": "WAITING_FOR_RESOURCES"}, {"out": state}])
    assert cloud.launch("tpu-vm", tpu_vm=TARGET | {"queued": True}) == 1
    assert cloud.kinds() == ["create", "describe", "describe", "delete"]
    assert words in one_line(capsys)


def test_a_queue_that_does_not_move(cloud, capsys):
    cloud.answer(describe=[{"out": "WAITING_FOR_RESOURCES"}])
    assert cloud.launch("tpu-vm", tpu_vm=TARGET | {"queued": True, "wait_minutes": 0.001}) == 1
    assert cloud.kinds()[-1] == "delete"
    assert "not ready after 0.001 minutes" in one_line(capsys)


@pytest.mark.parametrize("kind", ["scp", "setup"])
def test_code_that_does_not_arrive_is_shipped_again(kind, cloud):
    cloud.answer(**{kind: [{"code": 1, "err": "ERROR: connection refused"}, {}]})
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds()[-4:] == ["scp", "setup", "run", "delete"] and cloud.kinds().count("create") == 1


def test_deletion_that_fails_is_tried_again_and_handed_to_the_user(cloud, capsys):
    cloud.answer(delete=[{"code": 1, "err": "ERROR: internal"}, {}])
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds().count("delete") == 2

    cloud.forget()
    cloud.answer(delete=[{"code": 1, "err": "ERROR: internal"}])
    capsys.readouterr()
    assert cloud.launch("tpu-vm") == 1
    assert cloud.kinds().count("delete") == 3
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.endswith("gcloud compute tpus tpu-vm delete test-run --quiet --project=p --zone=z")


def test_deletion_also_after_a_defect_of_ours(cloud, monkeypatch):
    monkeypatch.setattr(tpu_vm.Nodes, "_run", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cloud.launch("tpu-vm")
    assert cloud.kinds()[-1] == "delete"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_deletes(number, cloud):
    cloud.answer(run=[{"hang": True}])
    code, error = cloud.interrupted(number, "tpu-vm")
    assert code == 128 + number
    assert cloud.kinds() == [*FIRST, "end", "delete"]
    assert error.strip() == f"error: stopped by {number.name}"
    assert not alive(int((cloud.bin / "child").read_text()))


def test_a_second_signal_does_not_stop_the_deletion(cloud, monkeypatch):
    original = tpu_vm.Nodes.delete

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(tpu_vm.Nodes, "delete", interrupted)
    assert cloud.launch("tpu-vm") == 0
    assert cloud.kinds()[-1] == "delete"


def test_new_and_changed_files_are_shipped_and_ignored_ones_are_not(cloud):
    code = cloud.folder / "code"
    code.mkdir()
    for name in ("kept", "deleted", "changed"):
        (code / name).write_text("old")
    git = ["git", "-C", str(code), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    (code / "deleted").unlink()
    (code / "changed").write_text("new")
    (code / "added").write_text("new")
    (code / "ignored").write_text("new")
    (code / ".gitignore").write_text("ignored\n")
    assert cloud.launch("tpu-vm", code=str(code)) == 0
    archive = next(word for word in argv(cloud, "scp") if word.endswith(".tar.gz") and ":" not in word)
    with tarfile.open(archive) as tar:
        assert set(tar.getnames()) == {"kept", "changed", "added", ".gitignore"}
        changed = tar.extractfile("changed")
        assert changed is not None and changed.read() == b"new"


def test_code_outside_git(cloud, capsys):
    assert cloud.launch("tpu-vm", code=str(cloud.bin)) == 2
    assert cloud.calls() == [] and "`code`" in one_line(capsys)


def test_gcloud_is_missing(cloud, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cloud.launch("tpu-vm") == 2
    assert "gcloud is not on PATH" in one_line(capsys)


@pytest.fixture
def worker(cloud):
    """A worker's home with a stand-in for the installed `melody`; runs what the workers are told to run."""
    cloud.launch("tpu-vm")
    text = next(word for word in argv(cloud, "run") if word.startswith("--command=")).removeprefix("--command=")
    home = cloud.folder / "home"
    program = home / "test-run" / ".venv" / "bin" / "melody"
    program.parent.mkdir(parents=True)

    def run(body):
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
        shell = ["bash", "-c", text.replace("timeout 120", "timeout 1")]
        return subprocess.run(shell, env=os.environ | {"HOME": str(home)}, cwd=home, capture_output=True, text=True)

    return run, home / "test-run" / "run.pid"


def test_what_a_worker_runs(worker):
    run, pid = worker
    done = run('printf "%s|" "$A" "$B" "$@"; echo; exit 143')
    assert done.returncode == 143 and not pid.exists()
    said, status = done.stdout.splitlines()
    words = [
        "two words",
        "$HOME",
        "train",
        "lm",
        "--size",
        "paper",
        "--data_dir",
        "/gcs/data",
        "--set",
        'a.b = "it is"',
    ]
    assert said.split("|")[:-1] == words
    match = tpu_vm.EXIT_LINE.search(status)
    assert match and match[1] == "143"


@pytest.mark.parametrize("signals", ["default", "ignored"])
def test_what_an_earlier_connection_left_is_ended_first(signals, worker):
    run, pid = worker
    ignore = "trap '' TERM; " if signals == "ignored" else ""
    left = subprocess.Popen(["bash", "-c", f"{ignore}echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE)
    assert left.stdout is not None and left.stdout.readline() == b"ready\n"
    try:
        pid.write_text(str(left.pid))
        # a zombie until we wait for it: its state says that it ended before `melody` began
        assert run(f"grep -q '^State:.Z' /proc/{left.pid}/status").returncode == 0
        assert left.wait(5) == (-signal.SIGKILL if signals == "ignored" else -signal.SIGTERM)
    finally:
        left.kill()


def test_a_description_without_a_bucket_warns(cloud, capsys):
    assert cloud.launch("tpu-vm", "--dry_run", command="python -c 'import jax'") == 0
    assert "deleted with the VMs" in capsys.readouterr().out


def test_missing_section(tmp_path):
    job = descriptions.Job(name="a", command=("melody",), accelerator="v6e-1")
    with pytest.raises(Exception, match="needs the key `tpu_vm`"):
        tpu_vm.launch(job, Runner(tmp_path, dry_run=True))
