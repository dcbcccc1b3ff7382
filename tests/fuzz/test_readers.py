"""Every reader of what users bring, under inputs that are broken at random: it reads them, or refuses them in its own way.

`make fuzz INPUTS=10000` reads that many with each reader and prints what became of them.
"""

import collections
import csv
import functools
import io
import json
import os
import random
import time
from collections.abc import Callable

import numpy as np
import pytest
import yaml

from data_pipelines import decode, sources
from data_pipelines.build import make_file_clips
from data_pipelines.clip import Clip
from launch import job
from melody_jax import graph
from melody_jax.bundle import Bundle, load_part
from melody_jax.bundle.part import seal
from melody_jax.codes import controls
from melody_jax.codes.control_words import pace_of, read_sentence
from melody_jax.errors import UserError
from melody_jax.generate import replay
from melody_jax.generate.prompts import read_prompts
from melody_jax.generate.settings import Settings, seeds_of, with_settings
from melody_jax.operations import configuration
from melody_jax.serve.fair_queue import ClosedError
from tests.data_pipelines.odd_inputs import KINDS, sound, tone_of
from tests.data_pipelines.tones import RATE
from tests.fuzz.mutations import JUNK, of_bytes, of_json, of_json_text
from tests.generate.conftest import bundle_dir, melody, model_dir  # noqa: F401  fixtures
from tests.serve.conftest import client, serving  # noqa: F401  fixtures

INPUTS = int(os.environ.get("MELODY_FUZZ_INPUTS", "300"))
LONGEST_SECONDS = 20.0
"""That one input of a few kilobytes may take on a busy machine."""

pytestmark = pytest.mark.slow
Reader = Callable[[random.Random], object]


def assert_reads_or_refuses(read: Reader, name: str) -> None:
    """Calls `read` with `INPUTS` generators; it must return, or raise UserError or UnusableError, and soon.

    The generator of a failure is `random.Random(f"{name} {number}")`.
    """
    outcomes, failures, slowest = collections.Counter(), {}, 0.0
    for number in range(INPUTS):
        started = time.monotonic()
        try:
            read(random.Random(f"{name} {number}"))
            outcomes["read"] += 1
        except (UserError, decode.UnusableError) as refusal:
            assert str(refusal).strip()
            outcomes["refused"] += 1
        except Exception as error:
            tail = error.__traceback__
            while tail and tail.tb_next:
                tail = tail.tb_next
            place = f"{tail.tb_frame.f_code.co_filename}:{tail.tb_lineno}" if tail else ""
            failures.setdefault(f"{type(error).__name__} at {place}: {str(error)[:200]}", number)
            outcomes["failed"] += 1
        slowest = max(slowest, time.monotonic() - started)
    print(f"\n{name}: {INPUTS} inputs, {dict(outcomes)}, slowest {slowest:.2f} s")
    assert not failures, "\n".join(f"{number}: {failure}" for failure, number in failures.items())
    assert slowest < LONGEST_SECONDS
    assert outcomes["refused"], "nothing was broken"


@functools.cache
def sounds() -> dict[str, bytes]:
    """A short file of every kind that is used."""
    return {
        name: kind.make(tone_of(number)[: RATE // 2])
        for number, (name, kind) in enumerate(KINDS.items())
        if kind.clips == 3 and not name.startswith("loud")
    }


def broken_sound(rng: random.Random, folder) -> str:
    name, data = rng.choice(list(sounds().items()))
    path = folder / f"sound.{name.rpartition('.')[2]}"
    path.write_bytes(of_bytes(rng, data))
    return str(path)


def test_sound_files(tmp_path):
    form = decode.ClipFormat(RATE, seconds=0.2, min_seconds=0.1)

    def read(rng):
        for clip in decode.clips_of(broken_sound(rng, tmp_path), form):
            decode.fault(clip, form)

    assert_reads_or_refuses(read, "sound files")


def test_uploads(client, tmp_path):  # noqa: F811
    def read(rng):
        with open(broken_sound(rng, tmp_path), "rb") as file:
            answer = client.post("/v1/takes", content=file.read())
        assert_answered(answer, 201)

    client._transport.raise_server_exceptions = True
    assert_reads_or_refuses(read, "uploads")


def assert_answered(answer, success: int) -> None:
    """A success, or a refusal of one line, which becomes a UserError."""
    assert answer.status_code in (success, 400, 404, 413, 422, 503), answer.text
    if answer.status_code != success:
        detail = answer.json()["detail"]
        assert "\n" not in detail
        raise UserError(detail)


TAGS = {
    "caption": "a slow waltz for solo violin in D minor, 96 bpm",
    "captions": ["a waltz", "three four time"],
    "description": "drums and bass",
    "bpm": 96.0,
    "tempo": "96 bpm",
    "downbeat": 0.25,
    "key": "D",
    "scale": "minor",
    "metre": "3/4",
    "instruments": ["violin", "piano"],
    "keywords": ["calm"],
    "genre": "folk",
    "licence": "CC0",
    "info_path": "other.json",
}


AUDIO = tone_of(0)[:RATE].astype(np.float32)


class _Sound:
    """A clip of a file that is not decoded, which takes longer than all that is read beside it."""

    notes, position = (), 1

    def __iter__(self):
        yield AUDIO


@pytest.fixture
def music(tmp_path, monkeypatch):
    """A folder with one sound file."""
    (tmp_path / "a.wav").write_bytes(sound(AUDIO))
    monkeypatch.setattr(decode, "clips_of", lambda *where: _Sound())
    monkeypatch.setattr(decode, "length_of", lambda *where: 60.0)
    return tmp_path


def made_of(listed: list[sources.Listed]) -> None:
    """What a data set makes of the files: clips, or rejections."""
    form = decode.ClipFormat(RATE, seconds=1.0)
    for item in listed:
        if isinstance(item, sources.SoundFile):
            for made in make_file_clips(item, form):
                if isinstance(made, Clip) and made.told:
                    controls.encode(made.told)
    reasons = [item.reason for item in listed if isinstance(item, sources.Rejection)]
    if reasons:
        raise UserError(reasons[0])


def test_sidecars(music):
    def read(rng):
        suffix = rng.choice((".json", ".txt"))
        text = b"a waltz\nin D minor, 96 bpm\n"
        (music / "a.wav").with_suffix(suffix).write_bytes(
            of_json_text(rng, TAGS) if suffix == ".json" else of_bytes(rng, text)
        )
        try:
            made_of(sources.folder(str(music)))
        finally:
            (music / "a.wav").with_suffix(suffix).unlink()

    assert_reads_or_refuses(read, "sidecars")


def test_manifests(music):
    import gzip

    row = {"path": "a.wav", "duration": 0.5, "sample_rate": RATE, "amplitude": None, "weight": 1.0, **TAGS}

    def read(rng):
        packed = rng.random() < 0.2
        path = music / ("x.jsonl.gz" if packed else "x.jsonl")
        lines = [of_json_text(rng, row), json.dumps(row | {"path": "./a.wav"}).encode()]
        data = b"\n".join(lines)
        path.write_bytes(of_bytes(rng, gzip.compress(data, 1)) if packed else data)
        made_of(sources.manifest(str(path)))

    assert_reads_or_refuses(read, "manifests")


def test_musiccaps_tables(music):
    (music / "0123456789a.wav").write_bytes((music / "a.wav").read_bytes())
    table = io.StringIO()
    csv.writer(table).writerows(
        [
            ("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption"),
            ("0123456789a", 30, 40, "/m/0140xf", "['low', 'slow']", 'a "slow" waltz, low'),
            ("0123456789a", 0, 10, "/m/0140xf", "['high']", "another"),
        ]
    )
    valid = table.getvalue().encode()

    def read(rng):
        (music / "x.csv").write_bytes(of_bytes(rng, valid))
        made_of(sources.musiccaps(str(music / "x.csv"), str(music)))

    assert_reads_or_refuses(read, "MusicCaps tables")


def test_prompt_files(tmp_path):
    valid = (
        "a slow waltz for solo violin in D minor, 96 bpm, without drums\nfête, 3/4\n  \nreel at 120-130 bpm\n".encode()
    )

    def read(rng):
        (tmp_path / "prompts.txt").write_bytes(of_bytes(rng, valid))
        for prompt in read_prompts(tmp_path / "prompts.txt"):
            read_sentence(prompt), pace_of(prompt)

    assert_reads_or_refuses(read, "prompt files")


def test_settings():
    valid = vars(Settings()) | {"seed": 3}

    def read(rng):
        changed = of_json(rng, valid)
        if not isinstance(changed, dict):
            raise UserError("no settings at all")
        seeds_of(changed.pop("seed", 0), 2)
        with_settings(Settings(), changed)

    assert_reads_or_refuses(read, "settings")


def test_bundles(bundle_dir):  # noqa: F811
    """Their JSON, with a right seal or a wrong one; what was broken is mended afterwards."""
    files = ["bundle.json", *(f"{name}/part.json" for name in graph.ORDER)]

    def read(rng):
        path = bundle_dir / rng.choice(files)
        valid = path.read_bytes()
        if rng.random() < 0.2:
            broken = of_bytes(rng, valid)
        else:
            changed = of_json(rng, json.loads(valid))
            if isinstance(changed, dict) and rng.random() < 0.9:
                changed["seal"] = seal(changed)
            broken = json.dumps(changed).encode()
        try:
            path.write_bytes(broken)
            with_settings(Settings(), Bundle.load(bundle_dir).sampling)
        finally:
            path.write_bytes(valid)

    assert_reads_or_refuses(read, "bundles")


def test_weights(bundle_dir):  # noqa: F811
    """Broken weights under their right sha256."""
    part = bundle_dir / "codes"
    info, weights = (part / "part.json").read_bytes(), (part / "weights.safetensors").read_bytes()

    def read(rng):
        import hashlib

        broken = of_bytes(rng, weights)
        said = json.loads(info)
        said["files"]["weights.safetensors"] = hashlib.sha256(broken).hexdigest()
        said["seal"] = seal(said)
        (part / "weights.safetensors").write_bytes(broken)
        (part / "part.json").write_text(json.dumps(said))
        load_part(part)

    try:
        assert_reads_or_refuses(read, "weights")
    finally:
        (part / "weights.safetensors").write_bytes(weights)
        (part / "part.json").write_bytes(info)


def test_pieces(tmp_path):
    """The JSON beside a piece, from which it is made again."""
    call = {
        "name": "inpaint",
        "bundle": {"lm": "x"},
        "prompt": "a waltz",
        "negative": "drums",
        "spans": [[0.5, 1.0]],
        "source": "ab",
        "file": "a.wav",
        "seed": 3,
        "candidate": 0,
        "settings": vars(Settings()),
        "controls": {"tempo": 96.0, "key": "D minor", "metre": "3/4", "instruments": ["violin"], "drums": False, "others": True},
    }  # fmt: skip

    def read(rng):
        (tmp_path / "a.json").write_bytes(of_json_text(rng, {"prompt": "a waltz", "call": call}))
        replay.read_call(replay.read_file(tmp_path / "a.json"))

    assert_reads_or_refuses(read, "pieces")


REQUESTS = [
    ("generate", {"prompt": "a waltz", "seed": 7, "settings": vars(Settings(seconds=1.0))}),
    ("generate", {"prompt": "a waltz", "negative": "drums", "settings": {"lm_guidance": 2.0}, "keep_all": False}),
    ("generate", {"prompt": "a waltz", "controls": {"bpm": 96, "key": "D minor", "instruments": ["violin"], "downbeat": 0.5}}),
    ("generate", {"like": "TAKE"}),
    ("continue", {"take": "TAKE", "prompt": "a waltz", "settings": {"seconds": 1.0}}),
    ("inpaint", {"take": "TAKE", "spans": [[0.1, 0.3]], "seed": 1}),
    ("vary", {"take": "TAKE", "strength": 0.5}),
]  # fmt: skip
"""Verbs and bodies; the third asks for controls, which this bundle does not know."""


def test_requests(client, monkeypatch):  # noqa: F811
    """Bodies of the service; what is accepted is not made."""

    def submit(address, wanted):
        raise ClosedError("accepted")

    monkeypatch.setattr(client.service, "submit", submit)
    client._transport.raise_server_exceptions = True
    take = client.post("/v1/takes", content=sound(tone_of(0)[: RATE // 2])).json()["id"]

    def read(rng):
        verb, valid = rng.choice(REQUESTS)
        body = of_json_text(rng, valid).replace(b"TAKE", take.encode())
        answer = client.post(f"/v1/{verb}", content=body, headers={"content-type": "application/json"})
        assert_answered(answer, 503)

    assert_reads_or_refuses(read, "requests")


def test_bindings(tmp_path):
    """`--set name=value`, and gin files."""
    composed = {
        stage: configuration.compose(configuration.gin_files(stage, "tiny", "cpu")).text for stage in graph.ORDER
    }

    def read(rng):
        stage = rng.choice(graph.ORDER)
        files = configuration.gin_files(stage, "tiny", "cpu")
        if rng.random() < 0.5:
            (tmp_path / "own.gin").write_bytes(of_bytes(rng, composed[stage].encode()))
            configuration.compose(files, [str(tmp_path / "own.gin")])
            return
        lines = [line for line in composed[stage].splitlines() if " = " in line and not line.startswith("#")]
        name = rng.choice(lines).partition(" = ")[0]
        if rng.random() < 0.1:
            name = of_bytes(rng, name.encode()).decode("utf-8", "surrogateescape")
        configuration.compose(files, (), [configuration.binding_of(f"{name}={rng.choice(JUNK)}")])

    assert_reads_or_refuses(read, "bindings")


def test_launch_files(tmp_path):
    path = configuration.configs_directory() / "launch" / "v5e-256.yaml"
    valid = yaml.safe_load(path.read_text())

    def read(rng):
        if rng.random() < 0.4:
            (tmp_path / "job.yaml").write_bytes(of_bytes(rng, path.read_bytes()))
        else:
            (tmp_path / "job.yaml").write_text(yaml.safe_dump(of_json(rng, valid)))
        job.read(tmp_path / "job.yaml")

    assert_reads_or_refuses(read, "launch files")
