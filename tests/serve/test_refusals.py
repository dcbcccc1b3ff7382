"""Bad requests get one line; limits hold; what was accepted is never lost."""

import asyncio
import io
import json
import threading
import time

import numpy as np
import pytest
import soundfile

from melody_jax.generate.settings import Settings
from melody_jax.serve.job_routes import _events
from melody_jax.serve.jobs import FINAL, Job, Jobs, Wanted
from melody_jax.serve.upload import TooLargeError, received
from tests.serve.conftest import SHORT, ended, made

BAD = {
    "nothing": ("generate", {}),
    "no sentence": ("generate", {"prompt": " "}),
    "two sources": ("generate", {"prompt": "a", "like": "x"}),
    "long sentence": ("generate", {"prompt": "a" * 501}),
    "unknown field": ("generate", {"prompt": "a", "loud": True}),
    "unknown setting": ("generate", {"prompt": "a", "settings": {"size": 3}}),
    "endless": ("generate", {"prompt": "a", "settings": {"seconds": 61}}),
    "no length": ("generate", {"prompt": "a", "settings": {"seconds": 0}}),
    "steps": ("generate", {"prompt": "a", "settings": {"steps": 101}}),
    "candidates": ("generate", {"prompt": "a", "settings": {"candidates": 99}}),
    "seed": ("generate", {"prompt": "a", "seed": -1}),
    "negative alone": ("generate", {"prompt": "a", "negative": "drums"}),
    "key": ("generate", {"prompt": "a", "controls": {"key": "H flat"}}),
    "no controls known": ("generate", {"prompt": "a", "controls": {"bpm": 90}}),
    "strength": ("vary", {"take": "x", "strength": 2}),
    "no spans": ("inpaint", {"take": "x", "spans": []}),
    "no take": ("continue", {}),
}


@pytest.fixture
def held(client, monkeypatch):
    """The worker stands still until the event is set."""
    go, begun = threading.Event(), threading.Event()
    plain = client.service.melody.generate

    def generate(*arguments, **options):
        begun.set()
        assert go.wait(60)
        return plain(*arguments, **options)

    monkeypatch.setattr(client.service.melody, "generate", generate)
    go.begun = begun
    yield go
    go.set()


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_one_line(client, case):
    verb, body = BAD[case]
    answer = client.post(f"/v1/{verb}", json=body)
    assert answer.status_code == 422 and set(answer.json()) == {"detail"}
    assert "\n" not in answer.json()["detail"] and len(answer.json()["detail"]) > 5
    assert client.service.waiting == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"prompt": NaN}', b'{"prompt": "a", "seed": 1e999}']
)
def test_garbage_is_refused(client, body):
    answer = client.post("/v1/generate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and "\n" not in answer.json()["detail"]


def test_a_large_request_is_refused_before_it_is_read(client):
    answer = client.post("/v1/generate", content=b" " * (1 << 20), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_spans_and_lengths_are_checked_against_the_music(serving):
    client = serving(seconds=1.0)
    (id,) = made(client, prompt="a waltz", settings={"seconds": 0.8})
    assert client.post("/v1/inpaint", json={"take": id, "spans": [[0.5, 5]]}).status_code == 422
    longer = client.post("/v1/continue", json={"take": id, "settings": {"seconds": 0.5}})
    assert longer.status_code == 422 and "at most 1 s" in longer.json()["detail"]
    assert client.post("/v1/vary", json={"take": "gone"}).status_code == 404


def test_a_full_queue_says_when_to_come_again(held, client):
    def ask(address):
        client._transport.client = (address, 1)
        return client.post("/v1/generate", json={"prompt": "a", "settings": SHORT})

    first = ask("1.1.1.1")
    assert held.begun.wait(60)
    answers = [ask("1.1.1.1") for _ in range(9)]
    assert [answer.status_code for answer in answers] == [202] * 8 + [429]
    others = [ask(f"2.2.2.{i // 8}") for i in range(57)]
    assert [answer.status_code for answer in others] == [202] * 56 + [503]
    assert int(answers[-1].headers["retry-after"]) >= 1 and int(others[-1].headers["retry-after"]) >= 1
    held.set()
    assert all(ended(client, a)["state"] == "done" for a in [first, *answers, *others] if a.status_code == 202)


def test_cancelling(held, client):
    running = client.post("/v1/generate", json={"prompt": "a", "settings": SHORT})
    assert held.begun.wait(60)
    waiting = client.post("/v1/generate", json={"prompt": "b", "settings": SHORT})
    assert client.delete(f"/v1/jobs/{waiting.json()['id']}").json()["state"] == "cancelled"
    client.delete(f"/v1/jobs/{running.json()['id']}")
    held.set()
    job = ended(client, running)
    assert job["state"] == "cancelled" and not job["takes"] and len(client.service.takes) == 0


def test_one_that_fails_does_not_take_others_along(held, client, monkeypatch):
    plain = client.service.melody.generate

    def fails(prompts, **options):
        if "bad" in prompts:
            raise RuntimeError("secret")
        return plain(prompts, **options)

    monkeypatch.setattr(client.service.melody, "generate", fails)
    answers = [client.post("/v1/generate", json={"prompt": p, "settings": SHORT}) for p in ("a", "good", "bad", "fine")]
    held.set()
    jobs = [ended(client, answer) for answer in answers]
    assert [job["state"] for job in jobs] == ["done", "done", "failed", "done"]
    assert "secret" not in jobs[2]["error"] and client.get("/health").status_code == 200


def test_an_end_that_nobody_has_heard_of_is_not_forgotten_for_one_that_was_told():
    jobs = Jobs(most=2)

    def job(told, **changes):
        new = Job("a", Wanted("generate", Settings(), 1))
        jobs.add(new)
        new.tell(**changes)
        if told:
            new.said()
        return new

    def remembered(*wanted):
        jobs.add(Job("a", Wanted("generate", Settings(), 1)))  # there is room for all that has not ended
        return [jobs.get(one.id) is one for one in wanted]

    running, left = job(told=True), job(told=False, state="done", ended=1.0)
    told = [job(told=True, state=state, ended=9.0 - at) for at, state in enumerate(FINAL)]
    assert remembered(running, left, *told) == [True, True, True, False, False]
    late = job(told=False, state="done", ended=10.0)
    assert remembered(running, left, late, *told) == [True, True, True, False, False, False]
    last = job(told=False, state="failed", ended=11.0)
    assert remembered(running, left, late, last) == [True, False, True, True]  # of those unheard of, the first to end


def test_takes_make_room_for_new_ones(serving):
    client = serving(kept_mib=1)
    takes = [made(client, prompt="a", seed=i)[0] for i in range(2)]
    tone = (0.1 * np.sin(np.arange(4000 * 50) * 0.3)).astype(np.float32)
    kept = [upload(client, tone).json()["id"] for _ in range(3)]
    assert client.get(f"/v1/takes/{takes[0]}").status_code == 404
    assert client.get(f"/v1/takes/{kept[-1]}").status_code == 200
    assert client.service.takes.bytes <= 1 << 20
    assert client.delete(f"/v1/takes/{kept[-1]}").status_code == 204
    assert client.get(f"/v1/takes/{kept[-1]}/audio").status_code == 404


def upload(client, audio, rate=4000, kind="WAV", subtype=None, type="audio/wav"):
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, subtype, format=kind)
    return client.post("/v1/takes", content=buffer.getvalue(), headers={"content-type": type}, params={"title": "mine"})


def test_uploads_become_takes(client):
    tone = (0.3 * np.sin(np.arange(44_100) * 0.05)).astype(np.float32)
    answer = upload(client, np.stack([tone, tone], 1), 44_100, "FLAC", type="audio/flac")
    assert answer.status_code == 201, answer.text
    said = answer.json()
    assert (said["verb"], said["title"], said["sample_rate"]) == ("upload", "mine", 4000)
    assert said["seconds"] == pytest.approx(1.0, abs=0.01)
    (longer,) = made(client, "continue", take=said["id"])
    assert client.get(f"/v1/takes/{longer}").json()["parent"] == said["id"]


def test_odd_uploads_are_refused_with_a_reason(client):
    tone = (0.3 * np.sin(np.arange(8000) * 0.5)).astype(np.float32)
    cases = {
        "silent": upload(client, np.zeros(4000, np.float32)),
        "too long": upload(client, np.tile(tone, 40)),
        "shorter than": upload(client, tone[:100]),
        "NaN": upload(client, np.full(4000, np.nan, np.float32), subtype="FLOAT"),
        "beyond full scale": upload(client, 4 * tone, subtype="FLOAT"),
        "empty": client.post("/v1/takes", content=b"", headers={"content-type": "audio/wav"}),
        "cannot be read": client.post("/v1/takes", content=b"no music" * 99, headers={"content-type": "audio/mpeg"}),
    }
    for reason, answer in cases.items():
        assert answer.status_code == 422 and reason in answer.json()["detail"], (reason, answer.text)
        assert "/tmp" not in answer.text
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, 4000, format="WAV")
    cut = client.post("/v1/takes", content=buffer.getvalue()[:-4000], headers={"content-type": "audio/wav"})
    assert cut.status_code == 422 and "truncated" in cut.json()["detail"]
    assert client.post("/v1/takes", content=b"x", headers={"content-type": "text/html"}).status_code == 415
    assert len(client.service.takes) == 0


def test_a_large_upload_is_cut_off(serving):
    client = serving(upload_mib=1)
    assert client.post("/v1/takes", content=b"x" * (2 << 20), headers={"content-type": "audio/wav"}).status_code == 413
    chunks = (b"x" * 65536 for _ in range(32))  # of no stated length
    assert client.post("/v1/takes", content=chunks, headers={"content-type": "audio/wav"}).status_code == 413

    async def sent():
        async def body():
            while True:
                yield b"x" * 65536

        async with received(body(), 1 << 20):
            raise AssertionError

    with pytest.raises(TooLargeError):
        asyncio.run(sent())


def test_an_upload_that_breaks_off_leaves_nothing(client, tmp_path, monkeypatch):
    """No take, no file, no traceback."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parts = iter([{"type": "http.request", "body": b"RIFF", "more_body": True}, {"type": "http.disconnect"}])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/takes",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
    }
    sent = []

    async def run():
        async def receive():
            return next(parts)

        async def send(message):
            sent.append(message)

        await client.app(scope, receive, send)

    client.portal.call(run)
    assert sent[0]["status"] == 400 and len(client.service.takes) == 0 and list(tmp_path.iterdir()) == []


def test_a_token(serving):
    client = serving(token="secret")
    assert client.get("/v1/about").status_code == client.get("/metrics").status_code == 401
    assert client.post("/v1/generate", json={"prompt": "a"}).status_code == 401
    assert client.get("/v1/about", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/v1/about", headers={"authorization": "Bearer secret"}).status_code == 200
    assert client.get("/health").status_code == client.get("/").status_code == 200
    assert client.get("/page/../v1/about").status_code == 401


def test_other_sites_are_kept_out_unless_they_are_named(serving):
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in serving().options("/v1/generate", headers=asked).headers
    allowed = serving(origins=["https://a.example"]).options("/v1/generate", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"


def test_streams_are_few_and_end_with_their_listeners(serving):
    client = serving(streams=1)
    live = client.portal.call(client.service.listen, "a", {"prompt": "a"}, 1.0)
    refused = client.post("/v1/streams", json={"prompt": "a"})
    assert refused.status_code in (429, 503) and "retry-after" in refused.headers
    client.service.leave(live)
    assert client.patch(f"/v1/streams/{live.id}", json={"prompt": "b"}).status_code == 404


def test_metrics(client):
    made(client, prompt="a waltz")
    client.get("/nowhere/at/all")
    client.post("/v1/generate", json={})
    text = client.get("/metrics").text
    for line in (
        'melody_jobs_total{state="done",verb="generate"} 1.0',
        'melody_requests_total{method="POST",route="/v1/generate",status="202"} 1.0',
        'melody_requests_total{method="POST",route="/v1/generate",status="422"} 1.0',
        'melody_requests_total{method="GET",route="other",status="404"} 1.0',
        "melody_jobs_waiting 0.0",
        "melody_takes 1.0",
    ):
        assert line in text, line
    assert "process_resident_memory_bytes" in text


def test_openapi_names_every_address(client):
    paths = set(client.get("/openapi.json").json()["paths"])
    assert {
        "/v1/generate",
        "/v1/continue",
        "/v1/inpaint",
        "/v1/vary",
        "/v1/streams",
        "/v1/takes",
        "/v1/jobs/{id}",
    } <= paths


def test_stopping_finishes_what_runs_and_returns_what_waits(held, client):
    running = client.post("/v1/generate", json={"prompt": "a", "settings": SHORT}).json()
    assert held.begun.wait(60)
    waiting = client.post("/v1/generate", json={"prompt": "b", "settings": SHORT}).json()
    service = client.service
    ending = client.portal.start_task_soon(service.close, 20.0)
    until = time.monotonic() + 10
    while not service.stopping and time.monotonic() < until:
        time.sleep(0.01)
    refused = client.post("/v1/generate", json={"prompt": "c", "settings": SHORT})
    assert refused.status_code == 503 and "stopping" in refused.json()["detail"]
    assert client.get("/health").status_code == 503
    returned = client.get(f"/v1/jobs/{waiting['id']}").json()
    assert returned["state"] == "cancelled" and "stopping" in returned["error"]
    held.set()
    ending.result(60)
    done = client.get(f"/v1/jobs/{running['id']}").json()
    assert done["state"] == "done" and client.get(f"/v1/takes/{done['takes'][0]}/audio").status_code == 200


def test_stopping_does_not_wait_for_ever(client, monkeypatch):
    begun = threading.Event()

    def endless(prompts, cancel, **options):
        from melody_jax.generate import Cancelled

        begun.set()
        while not cancel():
            time.sleep(0.01)
        raise Cancelled([])

    monkeypatch.setattr(client.service.melody, "generate", endless)
    job = client.post("/v1/generate", json={"prompt": "a", "settings": SHORT}).json()
    assert begun.wait(60)
    client.portal.call(client.service.close, 0.1)
    said = client.get(f"/v1/jobs/{job['id']}").json()
    assert said["state"] in FINAL and said["state"] == "cancelled" and json.dumps(said)


def test_a_step_without_an_end_is_handed_back(client, monkeypatch):
    """What it still makes after that is too late: a job ends once."""
    go, begun, plain = threading.Event(), threading.Event(), client.service.melody.generate

    def stuck(prompts, cancel, **options):
        begun.set()
        assert go.wait(60)
        return plain(prompts, **options)

    monkeypatch.setattr(client.service.melody, "generate", stuck)
    monkeypatch.setattr("melody_jax.serve.service._HALT_SECONDS", 0.1)
    job = client.post("/v1/generate", json={"prompt": "a", "settings": SHORT}).json()
    assert begun.wait(60)
    client.portal.call(client.service.close, 0.1)
    said = client.get(f"/v1/jobs/{job['id']}").json()
    assert said["state"] == "cancelled" and "stopping" in said["error"]
    go.set()
    client.service._thread.join(60)
    assert client.get(f"/v1/jobs/{job['id']}").json() == said
    assert 'melody_jobs_total{state="done"' not in client.get("/metrics").text


def test_what_changes_while_a_client_takes_an_event_is_told():
    async def follow():
        job = Job("a", Wanted("generate", Settings(), 1), asyncio.get_running_loop())
        events = _events(job)
        first = await anext(events)
        job.tell(state="done")
        await asyncio.sleep(0)  # the bell rings while nobody listens
        return first, await asyncio.wait_for(anext(events), 5)

    first, second = asyncio.run(follow())
    assert '"waiting"' in first and '"done"' in second
