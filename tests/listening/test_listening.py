"""A blind comparison over HTTP: sides, order, answers on disk, shares."""

import json
import pathlib

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from melody_jax.cli.main import main
from melody_jax.errors import UserError
from melody_jax.listening.app import create_app
from melody_jax.listening.study import QUESTIONS, Study, pairs_of

LISTENERS = [f"listener{number:02d}" for number in range(12)]


@pytest.fixture
def folders(tmp_path):
    """Five pairs; the pieces of a folder have a level of their own."""
    for name, level in (("a", 0.1), ("b", 0.4)):
        (tmp_path / name).mkdir()
        for piece in range(5):
            soundfile.write(tmp_path / name / f"{piece}-a-jig.wav", np.full(100, level), 8000)
    (tmp_path / "a" / "0-a-jig.json").write_text(json.dumps({"prompt": "a jig, played slowly"}))
    soundfile.write(tmp_path / "a" / "alone.wav", np.zeros(100), 8000)
    return tmp_path / "a", tmp_path / "b"


def level_of(client, listener, pair, side):
    answer = client.get(f"/v1/sounds/{listener}/{pair}/{side}")
    assert answer.status_code == 200 and "content-disposition" not in answer.headers
    return np.frombuffer(answer.content[-200:], "<i2")[0] / 32768


def test_who_prefers_the_loud_ones_is_understood_on_either_side(folders, tmp_path, capsys):
    file = tmp_path / "answers.jsonl"
    client, orders, firsts = TestClient(create_app(Study(pairs_of(*folders), file))), set(), []
    for count, listener in enumerate(LISTENERS):
        if count == 6:  # a restart, after a kill in the middle of a line
            file.write_text(file.read_text() + '{"listener": "li')
            client = TestClient(create_app(Study(pairs_of(*folders), file)))
        following, order = client.get("/v1/next", params={"listener": listener}).json(), []
        while following["pair"] is not None:
            pair = following["pair"]
            assert following["done"] == len(order) and following["of"] == 5
            levels = [level_of(client, listener, pair, side) for side in ("first", "second")]
            loud = "first" if levels[0] > levels[1] else "second"
            firsts.append(loud == "first")
            choices = {"musicality": loud, "quality": "same", "fit": "second" if loud == "first" else "first"}
            answer = client.post("/v1/answers", json={"listener": listener, "pair": pair, "choices": choices})
            assert answer.status_code == 201
            following = answer.json()
            order.append(pair)
        orders.add(tuple(order))
        assert sorted(order) == list(range(5))
    assert len(orders) > 6 and 15 < sum(firsts) < 45

    study = Study(pairs_of(*folders), file)
    assert study.next_of(LISTENERS[0]) is None and study.next_of("somebodyelse") is not None
    shares = study.shares()
    assert [shares[name].value for name in QUESTIONS] == [0.0, 0.5, 1.0] and shares["fit"].clips == 60
    assert 0.9 < shares["fit"].low < 1.0
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    assert {line["musicality"] for line in lines} == {"b"} and {line["first"] for line in lines} == {"a", "b"}
    assert {line["prompt"] for line in lines} == {"a jig, played slowly", *(f"{n} a jig" for n in range(1, 5))}
    assert all(pathlib.Path(line["b"]).parent == folders[1] for line in lines)
    assert main(["listen", *map(str, folders), "--answers", str(file), "--report"]) == 0
    assert "| fit | 1.000 (0.94 to 1.00) | 60 |" in capsys.readouterr().out


def test_an_answer_counts_once_and_must_be_whole(folders, tmp_path):
    study = Study(pairs_of(*folders), tmp_path / "answers.jsonl")
    client, choices = TestClient(create_app(study)), dict.fromkeys(QUESTIONS, "first")
    body = {"listener": LISTENERS[0], "pair": 0, "choices": choices}
    for _ in range(2):
        assert client.post("/v1/answers", json=body).status_code == 201
    assert study.shares()["fit"].clips == 1
    for wrong in ({"choices": {"fit": "first"}}, {"choices": choices | {"fit": "a"}}, {"listener": "../../etc/passwd"}):
        assert client.post("/v1/answers", json=body | wrong).status_code == 422
    assert client.post("/v1/answers", json=body | {"pair": 5}).status_code == 404
    assert client.get(f"/v1/sounds/{LISTENERS[0]}/-1/first").status_code == 404
    assert study.heard_by(LISTENERS[0]) == 1


def test_the_page_and_all_that_it_loads_are_there(folders, tmp_path):
    client = TestClient(create_app(Study(pairs_of(*folders), tmp_path / "answers.jsonl")))
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for address in ("/page/main.js", "/page/listen.css", "/shared/style.css", "/shared/api.js", "/shared/icon.svg"):
        assert client.get(address).status_code == 200, address
    assert set(client.get("/v1/questions").json()) == set(QUESTIONS)


def test_folders_without_a_pair_are_refused(folders, tmp_path, capsys):
    with pytest.raises(UserError, match="no such folder"):
        pairs_of(folders[0], tmp_path / "c")
    (tmp_path / "c").mkdir()
    assert main(["listen", str(folders[0]), str(tmp_path / "c"), "--port", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="cannot hold the answers"):
        Study(pairs_of(*folders), tmp_path)
