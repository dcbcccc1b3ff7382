"""Odd files and values of every kind but sound, each with what becomes of it: it is used, or refused in one line.

Sound files, their captions and names are the other half of the table: data_pipelines/odd_inputs.py.
"""

import gzip
import json
import os
import shutil

import pytest

from data_pipelines import read as data_sets
from data_pipelines import sources
from launch import job
from melody_jax.bundle import Bundle, export
from melody_jax.bundle.part import seal
from melody_jax.errors import UserError
from melody_jax.generate import replay
from melody_jax.generate.prompts import read_prompts
from melody_jax.generate.settings import Settings, seeds_of, with_settings
from melody_jax.operations import configuration
from melody_jax.serve.token import read_token
from tests.bundle.test_bundle import train

USED = ""
HUGE = 10**400

# {kind: (bytes, what becomes of them)}
ROW = {"path": "a.wav", "duration": 1.0, "sample_rate": 8_000, "caption": "a tone"}
LINE = json.dumps(ROW).encode() + b"\n"
MANIFESTS = {
    "plain": (LINE, USED),
    "byte order mark, CR LF": (b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n"), USED),
    "empty lines": (b"\n \n" + LINE + b"\n\n", USED),
    "missing file": (LINE.replace(b"a.wav", b"gone.wav"), USED),  # a line of rejected.jsonl
    "Latin-1": (LINE + '{"path": "fünf.wav"}\n'.encode("latin-1"), "x.jsonl, line 2: not UTF-8"),
    "UTF-16": (LINE.decode().encode("utf-16"), "x.jsonl, line 1: not UTF-8"),
    "broken row": (LINE + b"{broken\n", "x.jsonl, line 2: not a JSON object"),
    "deep row": (b"[" * 200_000, "x.jsonl, line 1: not a JSON object"),
    "a row that is a list": (b"[1]", "x.jsonl, line 1: not a JSON object"),
    "a row of digits": (b"1" * 5_000, "x.jsonl, line 1: not a JSON object"),
    "a path that is a number": (b'{"path": 3}', "x.jsonl, line 1"),
    "an empty path": (b'{"path": ""}', 'line 1: "path" is no file name'),
    "no rows": (b"\n\n", "the manifest is empty"),
    "zeros": (bytes(999), "line 1: not a JSON object"),
}  # fmt: skip
PACKED = {
    "plain, packed": (gzip.compress(LINE), USED),
    "plain text named gz": (LINE, "x.jsonl.gz cannot be read: Not a gzipped file"),
    "cut gz": (gzip.compress(LINE * 99)[:-20], "x.jsonl.gz cannot be read"),
    "damaged gz": (gzip.compress(os.urandom(999))[:40] + bytes(999), "x.jsonl.gz cannot be read"),
}  # fmt: skip
HEAD = b"ytid,start_s,end_s,aspect_list,caption\n"
TABLES = {
    "rows": (HEAD + b"0123456789a,0,10,\"['low', 'slow']\",a tune\n", USED),
    "byte order mark, as Excel writes it": (b"\xef\xbb\xbf" + HEAD + b"0123456789a,0,10,,a tune\r\n", USED),
    "a short row": (HEAD + b"0123456789a\n", USED),  # a line of rejected.jsonl
    "times that are none": (HEAD + b"0123456789a,nan,1e999,[,a tune\n", USED),  # too
    "Latin-1 table": (HEAD + b"f\xfcnf,0,1,,x\n", "x.csv, line 2: not UTF-8"),
    "no columns": (b"a,b\n1,2\n", "no column aspect_list"),
    "an endless field": (HEAD + b"a,0,1,," + b"x" * 200_000, "line 2"),
    "an open quote": (HEAD + b'a,0,1,,"x\n' + b"y" * 200_000, "line 2"),
    "no rows": (HEAD, "the table is empty"),
    "nothing": (b"", "no column aspect_list"),
}  # fmt: skip
PROMPTS = {
    "two, with empty lines": (b"a waltz\n\n \nreel\n", USED),
    "byte order mark, CR LF": (b"\xef\xbb\xbfa waltz\r\nreel\r\n", USED),
    "markup": (b"rap about $100 bills & 50% off, $20 [SEP] \\frac{1}{\n", USED),
    "Latin-1": ("waltz\nfête".encode("latin-1"), "x.txt, line 2: not UTF-8"),
    "UTF-16": ("waltz".encode("utf-16"), "x.txt, line 1: not UTF-8"),
    "zeros": (bytes(99), "holds no prompt"),
    "a book in one line": (b"word " * 400_000, "the prompt has 1999999 characters, at most 10000"),
    "no width": ("\u200b\n\u200d\ufeff\n".encode(), "holds no prompt"),
    "nothing": (b"", "holds no prompt"),
}  # fmt: skip

CALL = {"name": "generate", "prompt": "a waltz", "seed": 3, "candidate": 0, "settings": {"steps": 3}}
PIECES = {
    "a piece": ({"call": CALL}, USED),
    "with controls": ({"call": CALL | {"controls": {"tempo": 96.0, "instruments": ["violin"], "others": True}}}, USED),
    "no call": ({"prompt": "a waltz"}, "holds no call"),
    "a list": ([CALL], "holds no call"),
    "an unknown call": ({"call": CALL | {"name": "sing"}}, "calls are generate"),
    "a call whose name is a list": ({"call": CALL | {"name": ["generate"]}}, "calls are generate"),
    "no settings": ({"call": CALL | {"settings": None}}, "lacks its settings"),
    "steps beyond numbers": ({"call": CALL | {"settings": {"steps": HUGE}}}, "steps must be from 1 to 1000"),
    "a prompt that is a number": ({"call": CALL | {"prompt": 3}}, "a prompt that is none"),
    "a seed that is a list": ({"call": CALL | {"seed": []}}, "0 seeds for 1 prompts"),
    "a seed that is text": ({"call": CALL | {"seed": "3"}}, "a seed is a whole number"),
    "a tempo that is a list": ({"call": CALL | {"controls": {"tempo": [96]}}}, "a tempo that is none"),
    "a tempo beyond numbers": ({"call": CALL | {"controls": {"tempo": HUGE}}}, "a tempo is a number"),
    "drums that are a number": ({"call": CALL | {"controls": {"drums": 1}}}, "a drums that is none"),
    "an instrument that is a number": ({"call": CALL | {"controls": {"instruments": [3]}}}, "instruments that is none"),
    "unknown controls": ({"call": CALL | {"controls": {"mood": "sad"}}}, "these controls are none"),
}  # fmt: skip

SETTINGS = {
    "none": ({}, USED),
    "a whole number for a number": ({"seconds": 3, "guidance": 2}, USED),
    "steps of half": ({"steps": 2.5}, "steps must be of type int"),
    "no steps": ({"steps": 0}, "steps must be from 1 to 1000"),
    "endless": ({"seconds": float("inf")}, "seconds must be more than 0"),
    "longer than numbers": ({"seconds": HUGE}, "seconds must be more than 0"),
    "endless windows": ({"window_seconds": float("inf")}, "window_seconds must be from 0 to 600"),
    "guidance beyond float32": ({"guidance": 1e300}, "guidance must be from 0 to 1e[+]06"),
    "levels beyond int32": ({"mulan_levels": 2**40}, "mulan_levels must be from 0"),
    "k beyond numbers": ({"top_k": HUGE}, "top_k must be from 0 to 1e[+]06, got 1000"),
    "no number": ({"noise": float("nan")}, "noise must be from 0 to 1"),
    "text": ({"temperature": "hot"}, "temperature must be of type float"),
    "an unknown name": ({"loud": 3}, "unknown setting 'loud'"),
    "no seed": ({"seed": None}, "a seed is a whole number"),
    "half a seed": ({"seed": 1.5}, "a seed is a whole number"),
    "a negative seed": ({"seed": -1}, "a seed is a whole number"),
}  # fmt: skip

BINDINGS = {
    "layers": ("lm.LMConfig.layers=3", USED),
    "no layers' number": ("lm.LMConfig.layers=many", "layers"),
    "no heads": ("lm.LMConfig.heads=0", "not an even multiple of 0 heads"),
    "batches of none": ("BATCH_SIZE=0", "the batch size must be at least 1"),
    "batches of half": ("BATCH_SIZE=2.5", "batch_size"),
    "a name of nobody": ("lm.LMConfig.sise=3", "did you mean"),
    "no value": ("lm.LMConfig.layers", "expected binding=value"),
    "an open bracket": ("lm.LMConfig.layers=(", "layers"),
    "an unknown reference": ("lm.LMConfig.layers=@nothing()", "configuration: "),
    "a stage that is a number": ("train.stage=3", "loop.train.stage is bound to 3, which is no Stage"),
    "a run that is nothing": ("loop.train.run=None", "loop.train.run is bound to None, which is no Run"),
}  # fmt: skip


def _part(**changed):
    return lambda info: info | changed


def _geometry(**changed):
    return lambda info: info | {"geometry": info["geometry"] | changed}


# {kind: (file, what its JSON becomes, or its bytes; whether it is sealed again; what becomes of it)}
BUNDLES = {
    "as it was": ("bundle.json", lambda info: info, True, USED),
    "edited": ("bundle.json", _geometry(hop=480), False, "bundle.json was edited"),
    "edited part": ("lm/part.json", _part(config={"layers": 3}), False, "part.json was edited"),
    "edited and sealed": ("bundle.json", _geometry(hop=480), True, "geometry is not that of its parts"),
    "no hop": ("bundle.json", _geometry(hop=0), True, "its geometry makes no sense"),
    "a hop of half": ("bundle.json", _geometry(hop=2.5), True, "hop must be of type int"),
    "a rate beyond numbers": ("bundle.json", _geometry(sample_rate=HUGE), True, "makes no sense|geometry"),
    "a list": ("bundle.json", lambda info: [info], False, "holds no JSON object"),
    "parts in a list": ("bundle.json", _part(parts=["lm"]), True, "parts must be an object"),
    "no parts": ("bundle.json", _part(parts={}), True, "lists no part"),
    "a part without an id": ("bundle.json", lambda info: info | {"parts": info["parts"] | {"lm": {}}}, True, "the id of each"),
    "another version": ("bundle.json", _part(format=99), True, "written by another version"),
    "no vocabulary": ("bundle.json", _part(vocabulary={}), True, "its language model has None ids"),
    "Latin-1": ("bundle.json", b'{"format": "f\xfcnf"}', False, "bundle.json, line 1: not UTF-8"),
    "cut": ("bundle.json", b'{"format": 2', False, "bundle.json cannot be read"),
    "deep": ("bundle.json", b"[" * 200_000, False, "bundle.json cannot be read"),
    "nothing": ("bundle.json", b"", False, "bundle.json cannot be read"),
    "a part that is cut": ("dpd/part.json", b'{"format": 2', False, "part.json cannot be read"),
    "weights elsewhere": ("lm/part.json", _part(files={"../x": ""}), True, "not in its folder"),
    "weights that are gone": ("lm/part.json", _part(files={"x": ""}), True, "weights file x is missing"),
    "damaged weights": ("lm/weights.safetensors", b"junk", False, "is damaged"),
}  # fmt: skip


LAUNCH = {
    "a job": ((configuration.configs_directory() / "launch" / "v5e-256.yaml").read_bytes(), USED),
    "nothing": (b"", "a mapping of keys is expected"),
    "a day of no calendar": (b"name: 2026-99-99", "is no YAML"),
    "brackets without end": (b"[" * 5_000, "is no YAML"),
    "byte order mark": (b"\xef\xbb\xbfname: 3", "`name` must be text|is missing"),
    "Latin-1": ("\nname: fünf".encode("latin-1"), "x.yaml, line 2: not UTF-8"),
}  # fmt: skip
METADATA = {
    "of a data set": (b'{"id": "x"}', USED),
    "cut": (b'{"id": "x"', "metadata.json cannot be read"),
    "a list": (b"[1]", "holds no JSON object"),
    "Latin-1": ('{"id": "fünf"}'.encode("latin-1"), "metadata.json, line 1: not UTF-8"),
    "nothing": (b"", "metadata.json cannot be read"),
    "of nothing": (b"{}", "does not say what data set this is"),
}  # fmt: skip
GIN = {
    "nothing": (b"", USED),
    "byte order mark, CR LF": (b"\xef\xbb\xbf# f\xc3\xbcnf\r\nBATCH_SIZE = 3\r\n", USED),
    "Latin-1": ("BATCH_SIZE = 3\n# fünf".encode("latin-1"), "x.gin, line 2: not UTF-8"),
    "includes nothing": (b"include 'gone.gin'", "gone.gin"),
    "an open bracket": (b"\nBATCH_SIZE = (", "x.gin|line"),
    "zeros": (bytes(99), "x.gin"),
}  # fmt: skip
TEXTS = {
    "text": (b"a\n", USED),
    "Latin-1": ("\na fünf".encode("latin-1"), "line 2: not UTF-8"),
}
FILES = {
    "gin file": (
        "x.gin",
        lambda path: configuration.compose(configuration.gin_files("lm", "tiny", "cpu"), [path]),
        GIN,
    ),
    "token": ("x.txt", read_token, TEXTS),
    "data set": ("metadata.json", lambda path: data_sets.metadata(os.path.dirname(path)), METADATA),
    "launch": ("x.yaml", job.read, LAUNCH),
    "manifest": ("x.jsonl", sources.manifest, MANIFESTS),
    "packed manifest": ("x.jsonl.gz", sources.manifest, PACKED),
    "table": ("x.csv", lambda path: sources.musiccaps(path, os.path.dirname(path)), TABLES),
    "prompts": ("x.txt", read_prompts, PROMPTS),
    "piece": ("x.json", lambda path: replay.read_call(replay.read_file(path)), PIECES),
}


def assert_outcome(read, expected):
    """Calls `read`, which must refuse with `expected` in one line, or work where that is `USED`."""
    if expected == USED:
        assert read()
        return
    with pytest.raises(UserError, match=expected) as refusal:
        read()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize(("reader", "kind"), [(reader, kind) for reader in FILES for kind in FILES[reader][2]])
def test_files(tmp_path, reader, kind):
    name, read, kinds = FILES[reader]
    content, expected = kinds[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert_outcome(lambda: read(str(tmp_path / name)), expected)


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings(kind):
    values, expected = SETTINGS[kind]
    values = dict(values)
    assert_outcome(lambda: (seeds_of(values.pop("seed", 0), 1), with_settings(Settings(), values)), expected)


@pytest.mark.parametrize("kind", BINDINGS)
def test_bindings(kind):
    binding, expected = BINDINGS[kind]
    files = configuration.gin_files("lm", "tiny", "cpu")
    assert_outcome(lambda: configuration.compose(files, (), [configuration.binding_of(binding)]), expected)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of small parts."""
    root = tmp_path_factory.mktemp("odd")
    export(train(root / "run"), root / "bundle")
    return root / "bundle"


@pytest.mark.parametrize("kind", BUNDLES)
def test_bundles(bundle, tmp_path, kind):
    name, change, sealed, expected = BUNDLES[kind]
    path = shutil.copytree(bundle, tmp_path / "bundle") / name
    if not isinstance(change, bytes):
        info = change(json.loads(path.read_bytes()))
        change = json.dumps(info | {"seal": seal(info)} if sealed else info).encode()
    path.write_bytes(change)
    assert_outcome(lambda: Bundle.load(tmp_path / "bundle"), expected)
