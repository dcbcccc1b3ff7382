"""A server around the toy bundle of tests/generate."""

import time

import pytest
from fastapi.testclient import TestClient

from melody_jax.serve.app import create_app
from melody_jax.serve.limits import Limits
from melody_jax.serve.service import Service
from tests.generate.conftest import bundle_dir, melody, model_dir  # noqa: F401  fixtures

SHORT = {"seconds": 0.4, "steps": 2}


@pytest.fixture
def serving(melody):  # noqa: F811
    """`serving(limit=..., token=...)` gives a client of a new server; its service is `client.service`."""
    open_clients = []

    def start(token=None, origins=(), melody=melody, **limits):
        service = Service(melody, Limits(**limits))
        client = TestClient(create_app(service, token, origins, grace=20.0), raise_server_exceptions=False)
        client.service = service
        client.__enter__()
        open_clients.append(client)
        return client

    yield start
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving):
    return serving()


def ended(client, answer):
    """The job of an accepted request, at its end."""
    assert answer.status_code == 202, answer.text
    job, until = answer.json(), time.monotonic() + 300
    while job["state"] in ("waiting", "running"):
        assert time.monotonic() < until
        job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 10}).json()
    return job


def made(client, verb="generate", **body):
    """Ids of the takes of a job that must succeed."""
    settings = {**SHORT, **body.pop("settings", {})}
    job = ended(client, client.post(f"/v1/{verb}", json={"settings": settings, **body}))
    assert job["state"] == "done", job
    return job["takes"]
