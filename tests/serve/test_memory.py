"""A server that has compiled what it needs does not grow; programs are bounded, and their memory goes back."""

import gc

import jax

from melody_jax.serve import memory
from tests.serve.conftest import made


def test_nothing_is_left_of_requests_that_are_forgotten(serving):
    """Counted, not weighed: arrays on the device, executables, Python's objects."""
    client = serving(jobs=1)

    def counted(requests):
        for seed in range(requests):
            (first,) = made(client, prompt="a waltz", seed=seed)
            (second,) = made(client, "vary", take=first, strength=0.5, seed=seed)
            for id in (first, second):
                assert client.get(f"/v1/takes/{id}/audio").status_code == 200
                assert client.delete(f"/v1/takes/{id}").status_code == 204
        assert client.post("/v1/generate", json={"prompt": ""}).status_code == 422
        gc.collect()
        programs = jax.devices()[0].client.live_executables()
        return len(jax.live_arrays()), len(programs), len(gc.get_objects())

    counted(4)
    begin, end = counted(4), counted(12)
    assert end[:2] == begin[:2]
    assert end[2] - begin[2] < 24  # one for each request; a job alone is many


def test_programs_that_are_too_many_are_dropped(serving, monkeypatch):
    given_back = []
    monkeypatch.setattr(memory, "give_back", lambda: given_back.append(len(jax.devices()[0].client.live_executables())))
    client = serving(programs=1)
    jax.clear_caches()
    held = len(jax.devices()[0].client.live_executables())
    made(client, prompt="a waltz")
    made(client, prompt="a waltz", settings={"steps": 3})  # behind it the turn before has ended
    assert given_back and given_back[0] <= held


def test_memory_is_given_back_on_every_platform(monkeypatch):
    memory.keep_together()
    memory.give_back()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    memory.give_back()
