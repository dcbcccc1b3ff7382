"""The JobSet against the Kubernetes schemas, and following it against a recording kubectl."""

import kubernetes_validate
import pytest

from launch import gke
from launch import job as descriptions
from melody_jax import libtpu
from melody_jax.errors import UserError

VARIANTS = {
    "plain": {},
    "slices, spot, queue": {"slices": 3, "capacity": "spot", "gke": {"image": "i", "queue": "multislice-queue"}},
    "reserved": {"capacity": "reserved", "gke": {"image": "i", "reservation": "r", "service_account": "s"}},
    "no bucket": {"bucket": "", "command": "python -c 1", "env": {}},
    "one chip": {"accelerator": "v6e-1"},
    "local disk": {"gke": {"image": "i", "local_disk": "/mnt/disks/ssd0"}},
    "local disk, no bucket": {"bucket": "", "command": "python -c 1", "gke": {"image": "i", "local_disk": "/mnt"}},
    "v7x": {"accelerator": "tpu7x-128", "gke": {"image": "i", "queue": "q"}},
}
RESTARTS = {"RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob", "RestartJobAndIgnoreMaxRestarts"}


def manifest(cloud, **changes):
    return gke.manifest(descriptions.read(cloud.config(**changes)))


def check_jobset(data):
    """What the JobSet API (v1alpha2) requires and allows of the fields that we use."""
    assert set(data) == {"apiVersion", "kind", "metadata", "spec"}
    assert (data["apiVersion"], data["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    known = {"replicatedJobs", "failurePolicy", "successPolicy", "startupPolicy", "network", "suspend", "coordinator"}
    assert set(data["spec"]) <= known | {"managedBy", "ttlSecondsAfterFinished", "volumeClaimPolicies"}
    policy = data["spec"]["failurePolicy"]
    assert set(policy) <= {"maxRestarts", "rules", "restartStrategy"} and type(policy["maxRestarts"]) is int
    reasons = {
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
        "PodFailurePolicy",
    }
    for rule in policy["rules"]:
        assert set(rule) >= {"action", "name"} and rule["action"] in RESTARTS | {"FailJobSet"}
        assert set(rule.get("onJobFailureReasons", ())) <= reasons
    for entry in data["spec"]["replicatedJobs"]:
        assert {"name", "template"} <= set(entry) <= {"name", "template", "replicas", "dependsOn", "groupName"}
        assert type(entry["replicas"]) is int and entry["replicas"] >= 0
        assert set(entry["template"]) <= {"metadata", "spec"}
        # a pod's name is JOBSET-ENTRY-JOB-POD and five characters; a hostname has at most 63
        hosts = entry["template"]["spec"]["parallelism"]
        name = f"{data['metadata']['name']}-{entry['name']}-{entry['replicas'] - 1}-{hosts - 1}-abcde"
        assert len(name) <= 63


def job_of(data):
    template = data["spec"]["replicatedJobs"][0]["template"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, "spec": template["spec"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_manifest_follows_the_schemas(variant, cloud):
    data = manifest(cloud, **VARIANTS[variant])
    check_jobset(data)
    job = job_of(data)
    pod = {"apiVersion": "v1", "kind": "Pod", **job["spec"]["template"]}
    for version in ("1.31", "1.37"):
        kubernetes_validate.validate(job, version, strict=True)
        kubernetes_validate.validate(pod, version, strict=True)
    spec = pod["spec"]
    assert spec["restartPolicy"] == "Never", "a pod failure policy needs it"
    assert job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == spec["containers"][0]["name"]
    assert {mount["name"] for mount in spec["containers"][0].get("volumeMounts", [])} == {
        volume["name"] for volume in spec.get("volumes", [])
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda job: job["spec"].pop("template"),
        lambda job: job["spec"].update(completion=4),
        lambda job: job["spec"].update(parallelism="four"),
        lambda job: job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=["2"]),
        lambda job: job["spec"]["template"]["spec"]["containers"][0].pop("name"),
    ],
)
def test_the_schemas_refuse_damage(damage, cloud):
    job = job_of(manifest(cloud))
    damage(job)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_one_job_a_slice_one_pod_a_host(cloud):
    data = manifest(cloud, slices=2, accelerator="v5litepod-256", grace_seconds=300)
    slices = data["spec"]["replicatedJobs"][0]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 64, 64)
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    assert pod["terminationGracePeriodSeconds"] == 300
    assert pod["hostNetwork"] is True


def test_names_and_labels_of_xpk(cloud):
    data = manifest(cloud, gke={"image": "i", "queue": "multislice-queue"})
    label = {"xpk.google.com/workload": "test-run"}
    assert data["metadata"]["labels"] == label | {"kueue.x-k8s.io/queue-name": "multislice-queue"}
    assert data["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    entry = data["spec"]["replicatedJobs"][0]
    assert entry["name"] == "slice-job"
    assert entry["template"]["spec"]["template"]["metadata"]["labels"] == label
    assert entry["template"]["spec"]["template"]["spec"]["containers"][0]["name"] == "jax-tpu"


def test_only_bad_arguments_end_it(cloud):
    data = manifest(cloud)
    policy = data["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    job = data["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0, "143 and the like fail the Job, and so restart the whole JobSet"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert (rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"]) == ("In", [2, 4])


def test_command_and_environment(cloud):
    container = job_of(manifest(cloud))["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:2] == ["melody", "train"] and "/gcs/data" in container["command"]
    flags = {"name": "LIBTPU_INIT_ARGS", "value": libtpu.arguments("v5e")}
    assert container["env"] == [flags, {"name": "A", "value": "two words"}, {"name": "B", "value": "$HOME"}]


def test_pods_that_do_not_run_yet_are_waited_for(cloud, capsys):
    waiting = {"code": 1, "err": "Error: container is waiting to start"}
    cloud.answer(
        apply=[{"out": "jobset/test-run created"}],
        logs=[waiting, {"out": "[pod/a] step 1"}],
        get=[{"out": ""}, {"out": "Completed"}],
    )
    assert cloud.launch("gke", gke={"image": "i", "context": "c", "namespace": "n"}) == 0
    assert cloud.kinds() == ["look", "apply", "logs", "get", "logs", "get"]
    shown = capsys.readouterr().out
    assert "[pod/a] step 1" in shown and "(jobset/test-run created)" in shown
    assert all(call["argv"][1:3] == ["--context=c", "--namespace=n"] for call in cloud.calls())


def test_failures(cloud, capsys, monkeypatch):
    down = {"code": 1, "err": "Unable to connect to the server"}
    cases = {
        "describe jobset test-run says why": {"get": [{"out": "Failed"}]},
        "could not be applied: error: no JobSet": {"apply": [{"code": 1, "err": "error: no JobSet\n"}]},
        "was deleted": {"get": [{"code": 1, "err": "Error from server (NotFound): jobsets"}]},
        "does not answer": {"logs": [down], "get": [down]},
    }
    monkeypatch.setattr(gke, "SILENCE", 2)
    for message, answers in cases.items():
        cloud.answer(**answers)
        assert cloud.launch("gke") == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and message in error[0]


def test_a_hanging_apply_is_killed(cloud, capsys, monkeypatch):
    monkeypatch.setattr(gke, "QUERY_LIMIT", 0.2)
    cloud.answer(apply=[{"hang": True}])
    assert cloud.launch("gke") == 1
    assert "could not be applied: no answer in time" in capsys.readouterr().err


def test_logs_that_hang_are_given_up_when_the_job_has_ended(cloud, monkeypatch):
    monkeypatch.setattr(gke, "LOOK", 0.2)
    cloud.answer(logs=[{"hang": True}])
    assert cloud.launch("gke") == 0


def test_reserved_capacity_needs_its_name(cloud):
    with pytest.raises(UserError, match="gke.reservation"):
        manifest(cloud, capacity="reserved")
    with pytest.raises(UserError, match="`gke`"):
        manifest(cloud, gke=None)
    with pytest.raises(UserError, match="`accelerator`"):
        manifest(cloud, accelerator=None)


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_a_finished_jobset_is_not_taken_for_the_new_one(state, cloud, capsys):
    cloud.answer(look=[{"out": state}])
    assert cloud.launch("gke") == 0
    assert cloud.kinds() == ["look", "delete", "apply", "logs", "get"]
    assert cloud.calls()[1]["argv"][-4:] == ["delete", "jobset", "test-run", "--cascade=foreground"]
    assert f"has ended before ({state})" in capsys.readouterr().out
    cloud.forget()
    cloud.answer(look=[{"out": state}], delete=[{"code": 1, "err": "error: forbidden"}])
    assert cloud.launch("gke") == 1
    assert "could not be deleted: error: forbidden" in capsys.readouterr().err
    assert "apply" not in cloud.kinds()


def test_one_that_runs_is_followed(cloud):
    cloud.answer(look=[{"out": ""}])
    assert cloud.launch("gke") == 0
    assert cloud.kinds() == ["look", "apply", "logs", "get"]


def test_v7x_has_four_chips_and_eight_devices_a_host(cloud):
    data = manifest(cloud, accelerator="tpu7x-128", slices=1)
    job = data["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == 16 and pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu7x",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    assert descriptions.read(cloud.config(accelerator="tpu7x-128")).tpu.devices == 128
    assert descriptions.read(cloud.config()).tpu.devices == 16
