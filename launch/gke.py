"""GKE: one JobSet, with the names and labels of xpk, so that xpk's commands find it."""

from typing import Any

import yaml

from launch.job import Gke, Job
from launch.processes import InterruptError, LaunchError, Result, Runner
from launch.restarts import HOPELESS
from melody_jax.errors import UserError

CONTAINER = "jax-tpu"
MOUNT = "/gcs"
POLL = 15.0
LOOK = 60.0
QUERY_LIMIT = 60.0
DELETE_LIMIT = 600.0
SILENCE = 20  # queries without an answer in a row that end the watch


def launch(job: Job, runner: Runner) -> int:
    """Applies the JobSet and follows its logs to its end. The cluster restarts it, also after this program has ended.

    Raises:
      UserError: the description lacks something.
      LaunchError: the cluster refused it or does not answer, or the job failed; InterruptError after a signal.
    """
    target = _target(job)
    text = yaml.safe_dump(manifest(job), sort_keys=False, width=1000)
    runner.need("kubectl")
    if not job.keeps_results:
        runner.say("the command names no bucket: what it writes is deleted with the pods")
    kubectl = [
        "kubectl",
        *([f"--context={target.context}"] if target.context else []),
        f"--namespace={target.namespace}",
    ]
    _remove_finished(job, kubectl, runner)
    done = runner.run([*kubectl, "apply", "--filename=-"], limit=QUERY_LIMIT, stdin=text)
    if done.code:
        raise LaunchError(f"{job.name} could not be applied: {done.reason}")
    runner.say(f"following {job.name} ({done.out.strip() or 'applied'}); Ctrl-C ends the watching only")
    try:
        state = _follow(job, kubectl, runner)
    except InterruptError as interrupt:
        raise InterruptError(
            f"{interrupt}; {job.name} goes on: the same command follows it again, "
            f"{' '.join(kubectl)} delete jobset {job.name} ends it",
            interrupt.exit_code,
        ) from None
    if state != "Completed":
        raise LaunchError(f"{job.name} failed; {' '.join(kubectl)} describe jobset {job.name} says why")
    return 0


def _state_of(job: Job, kubectl: list[str], runner: Runner, assumed: str) -> Result:
    """Its output is the JobSet's last state, Completed or Failed; empty while it goes on."""
    query = [*kubectl, "get", "jobset", job.name, "--output=jsonpath={.status.terminalState}"]
    return runner.run(query, limit=QUERY_LIMIT, assumed=assumed)


def _remove_finished(job: Job, kubectl: list[str], runner: Runner) -> None:
    """A JobSet that has ended would be taken for the new one: to apply the same again changes nothing.

    Raises:
      LaunchError: it could not be deleted.
    """
    state = _state_of(job, kubectl, runner, assumed="").out.strip()
    if not state:
        return
    runner.say(f"{job.name} has ended before ({state}); deleting it")
    done = runner.run([*kubectl, "delete", "jobset", job.name, "--cascade=foreground"], limit=DELETE_LIMIT)
    if done.code and "NotFound" not in done.err:
        raise LaunchError(f"{job.name} has ended before and could not be deleted: {done.reason}")


def _follow(job: Job, kubectl: list[str], runner: Runner) -> str:
    """Shows the logs of all pods, of restarted ones too. Returns the JobSet's last state: Completed or Failed."""
    pods = job.slices * job.tpu.hosts
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}"
    logs = [*kubectl, "logs", "--follow", "--prefix", "--tail=-1", selector, f"--container={CONTAINER}"]
    unanswered = 0

    def ask() -> Result:
        return _state_of(job, kubectl, runner, assumed="Completed")

    while True:
        # fails as long as the pods do not run; a connection that hangs is given up when the JobSet has ended
        runner.follow([*logs, f"--max-log-requests={pods}"], lost=lambda: bool(ask().out.strip()), every=LOOK)
        done = ask()
        unanswered = unanswered + 1 if done.code else 0
        if "NotFound" in done.err:
            raise LaunchError(f"{job.name} was deleted")
        if unanswered == SILENCE:
            raise LaunchError(f"the cluster does not answer, {job.name} may go on: {done.reason}")
        if done.out.strip():
            return done.out.strip()
        runner.pause(POLL)


def manifest(job: Job) -> dict[str, Any]:
    """The JobSet: one Job for each slice, one pod for each host; if one fails, all are started again.

    Exit codes that a restart would not mend fail the JobSet at once; any other restarts it, `restarts` times.

    Raises:
      UserError: the description lacks something.
    """
    target = _target(job)
    labels = {"xpk.google.com/workload": job.name}
    hosts = job.tpu.hosts
    pod = {
        "metadata": {
            "labels": labels,
            **({"annotations": {"gke-gcsfuse/volumes": "true"}} if job.bucket else {}),
        },
        "spec": _pod(job, target),
    }
    slices = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(HOPELESS)},
                }
            ]
        },
        "template": pod,
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "namespace": target.namespace,
            "labels": labels | ({"kueue.x-k8s.io/queue-name": target.queue} if target.queue else {}),
            # one slice on one node pool: a pool is what the interconnect joins
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "rules": [
                    {"name": "noRestartMendsIt", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [{"name": "slice-job", "replicas": job.slices, "template": {"spec": slices}}],
        },
    }


def _pod(job: Job, target: Gke) -> dict[str, Any]:
    tpu = job.tpu
    nodes = {"cloud.google.com/gke-tpu-accelerator": tpu.gke, "cloud.google.com/gke-tpu-topology": tpu.topology}
    tolerations = [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}]
    if job.capacity == "spot":
        nodes["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    if job.capacity == "reserved":
        nodes["cloud.google.com/reservation-name"] = target.reservation
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": target.image,
        "command": job.words(MOUNT if job.bucket else ""),
        "env": [{"name": name, "value": value} for name, value in job.environment.items()],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],  # libtpu's own, and the coordinator's
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": tpu.chips_per_host}},
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "nodeSelector": nodes,
        "tolerations": tolerations,
        "containers": [container],
    }
    volumes, mounts = [], []
    if target.service_account:
        spec["serviceAccountName"] = target.service_account
    if job.slices > 1:  # traffic between slices is faster without the pod network
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if job.bucket:
        attributes = {"bucketName": job.bucket.removeprefix("gs://"), "mountOptions": "implicit-dirs"}
        attributes |= {"hostNetworkPodKSA": "true"} if job.slices > 1 else {}
        volumes += [{"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}}]
        mounts += [{"name": "bucket", "mountPath": MOUNT}]
    if target.local_disk:
        volumes += [{"name": "local-disk", "hostPath": {"path": target.local_disk, "type": "DirectoryOrCreate"}}]
        mounts += [{"name": "local-disk", "mountPath": target.local_disk}]
    if volumes:
        spec["volumes"], container["volumeMounts"] = volumes, mounts
    return spec


def _target(job: Job) -> Gke:
    if job.gke is None:
        raise UserError("melody launch gke needs the key `gke`")
    if job.capacity == "reserved" and not job.gke.reservation:
        raise UserError("reserved capacity on GKE needs the key `gke.reservation`")
    return job.gke
