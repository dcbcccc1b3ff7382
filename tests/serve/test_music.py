"""All verbs over HTTP: what comes is what `Melody` makes."""

import io
import json
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from melody_jax.codes.controls import SLOTS, decode
from melody_jax.generate.sound_file import read_music
from tests.generate.conftest import with_beats
from tests.serve.conftest import SHORT, ended, made


def heard(client, id, **params):
    answer = client.get(f"/v1/takes/{id}/audio", params=params)
    assert answer.status_code == 200, answer.text
    return soundfile.read(io.BytesIO(answer.content), dtype="float32")


def test_generate_is_what_the_library_makes(client, melody):
    job = ended(client, client.post("/v1/generate", json={"prompt": "a waltz", "seed": 5, "settings": SHORT}))
    assert job["state"] == "done" and job["done"] == job["total"] and job["seed"] == 5
    audio, rate = heard(client, job["takes"][0])
    wanted = melody.generate("a waltz", seed=5, **SHORT).audio
    assert rate == melody.sample_rate
    np.testing.assert_allclose(audio, wanted, atol=2**-15)
    said = client.get(f"/v1/takes/{job['takes'][0]}").json()
    assert (said["verb"], said["title"], said["seed"], said["parent"]) == ("generate", "a waltz", 5, None)


def test_a_seed_is_drawn_and_said(client):
    jobs = [ended(client, client.post("/v1/generate", json={"prompt": "a", "settings": SHORT})) for _ in range(2)]
    assert jobs[0]["seed"] != jobs[1]["seed"]


def test_candidates_become_takes_the_best_first(client):
    takes = made(client, prompt="a waltz", seed=1, keep_all=True, settings={"candidates": 3})
    said = [client.get(f"/v1/takes/{id}").json() for id in takes]
    assert len(takes) == 3 and {one["candidate"] for one in said} == {0, 1, 2}
    assert said[0]["similarity"] == max(one["similarity"] for one in said)


def test_edits_of_takes(client):
    (first,) = made(client, prompt="a waltz", seed=1, settings={"seconds": 0.8})
    before, rate = heard(client, first)
    (longer,) = made(client, "continue", take=first, prompt="drums", seed=2)
    assert len(heard(client, longer)[0]) == len(before) + round(0.4 * rate)
    (repaired,) = made(client, "inpaint", take=first, spans=[[0.2, 0.4]], seed=3)
    after = heard(client, repaired)[0]
    begin, end = round(0.2 * rate), round(0.4 * rate)
    np.testing.assert_array_equal(after[:begin], before[:begin])
    np.testing.assert_array_equal(after[end:], before[end:])
    assert not np.array_equal(after[begin:end], before[begin:end])
    (cousin,) = made(client, "vary", take=first, strength=0.5, seed=4)
    assert len(heard(client, cousin)[0]) == len(before)
    (like,) = made(client, like=first, seed=5)
    for id, verb in ((longer, "continue"), (repaired, "inpaint"), (cousin, "vary"), (like, "generate")):
        said = client.get(f"/v1/takes/{id}").json()
        assert (said["verb"], said["parent"]) == (verb, first)


def test_what_is_downloaded_makes_the_piece_again(client, melody, tmp_path):
    """`melody generate --from x.json --music parent.wav`."""
    (first,) = made(client, prompt="a waltz", seed=1)
    (cousin,) = made(client, "vary", take=first, strength=0.5, seed=4)
    (tmp_path / "parent.wav").write_bytes(client.get(f"/v1/takes/{first}/audio").content)
    answer = client.get(f"/v1/takes/{cousin}/json")
    assert "attachment" in answer.headers["content-disposition"]
    info = json.loads(answer.content)
    assert str(melody.bundle.directory) not in answer.text
    again = melody.replay(info, read_music(tmp_path / "parent.wav", melody.sample_rate))
    np.testing.assert_allclose(again.audio, heard(client, cousin)[0], atol=2**-15)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_formats(client, kind):
    (id,) = made(client, prompt="a waltz")
    answer = client.get(f"/v1/takes/{id}/audio", params={"format": kind, "rate": 24000})
    assert answer.headers["content-type"].startswith("audio/") and f".{kind}" in answer.headers["content-disposition"]
    assert soundfile.read(io.BytesIO(answer.content))[1] == 24000
    assert client.get(f"/v1/takes/{id}/picture").content.startswith(b"\x89PNG")


def test_requests_that_wait_together_are_made_together(client, melody):
    """Each as if it had been alone."""
    go = threading.Event()
    plain = melody.generate
    sizes = []

    def held(prompts=None, **options):
        go.wait(60)
        sizes.append(len(prompts))
        return plain(prompts, **options)

    client.service.melody.generate = held
    try:
        answers = [
            client.post("/v1/generate", json={"prompt": prompt, "seed": 7, "settings": SHORT})
            for prompt in ("first", "flute", "loud drums", "a harp", "a horn")
        ]
        go.set()
        jobs = [ended(client, answer) for answer in answers]
    finally:
        del client.service.melody.generate
    assert sizes == [1, 4] and all(job["state"] == "done" for job in jobs)
    audio = heard(client, jobs[3]["takes"][0])[0]
    np.testing.assert_allclose(audio, melody.generate("a harp", seed=7, **SHORT).audio, atol=2e-3)


def test_events_tell_of_every_step_and_end(client):
    job = client.post("/v1/generate", json={"prompt": "a", "settings": SHORT}).json()
    answer = client.get(f"/v1/jobs/{job['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert told[-1]["state"] == "done" and told[-1]["takes"]
    assert [one["done"] for one in told] == sorted(one["done"] for one in told)


@pytest.mark.parametrize("kind", ["wav", "mp3"])
def test_a_stream_plays_until_its_end(serving, kind):
    client = serving(stream_seconds=2.0)
    answer = client.post("/v1/streams", json={"prompt": "a", "seed": 1, "settings": {"steps": 2}, "format": kind})
    assert answer.status_code == 200 and answer.headers["x-stream-id"]
    if kind == "wav":
        assert answer.content[:4] == b"RIFF" and len(answer.content) == 44 + 2 * round(2.0 * 4000)
        assert np.abs(np.frombuffer(answer.content[44:], "<i2")).max() > 300
    assert not client.service.streams


def test_a_stream_is_what_the_library_plays(serving, melody):
    client = serving(stream_seconds=1.0)
    answer = client.post("/v1/streams", json={"prompt": "a", "seed": 1, "settings": {"steps": 2}})
    stream = melody.stream("a", seed=1, steps=2)
    audio = np.concatenate([next(stream) for _ in range(10)])[:4000]
    np.testing.assert_allclose(np.frombuffer(answer.content[44:], "<i2") / 32768, audio, atol=2**-15)


def test_a_stream_takes_other_controls_while_it_plays(serving, bundle_dir, monkeypatch):
    """The first chunk waits until the changes are in; what is refused changes nothing."""
    melody = with_beats(bundle_dir)
    client, plain = serving(melody=melody, stream_seconds=1.5), melody.loaded.write_tokens
    vocabulary = melody.loaded.system.vocabulary
    begun, go, tempi = threading.Event(), threading.Event(), []

    def write(condition, *arguments):
        first = np.asarray(vocabulary.control_ids(jnp.zeros(len(SLOTS), jnp.int32)))
        tempi.append(decode(np.asarray(condition)[0, -len(SLOTS) :] - first).tempo)
        begun.set()
        assert go.wait(300)
        return plain(condition, *arguments)

    monkeypatch.setattr(melody.loaded, "write_tokens", write)
    body = {"prompt": "a drone", "settings": {"steps": 2}, "controls": {"bpm": 150}}
    heard = []
    listener = threading.Thread(target=lambda: heard.append(client.post("/v1/streams", json=body)))
    listener.start()
    assert begun.wait(300)
    (id,) = client.service.streams
    answers = [
        client.patch(f"/v1/streams/{id}", json=change)
        for change in ({"controls": {"bpm": 75}}, {"controls": {"bpm": 7}}, {"prompt": "another drone"})
    ]
    go.set()
    listener.join(300)
    assert [answer.status_code for answer in answers] == [200, 422, 200] and "bpm" in answers[1].json()["detail"]
    assert len(heard[0].content) == 44 + 2 * 1.5 * melody.sample_rate
    assert tempi[0] == 150 and len(tempi) > 2 and set(tempi[1:]) == {75}
