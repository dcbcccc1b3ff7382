"""Bundles: export, lineage, integrity, card."""

import json
import resource
import shutil
import threading

import numpy as np
import pytest

from melody_jax.bundle import Bundle, Card, check_lineage, export, load_part, save_part
from melody_jax.bundle.bundle import bundle_bytes
from melody_jax.bundle.part import seal
from melody_jax.errors import STOPPED, UserError, exit_code_of
from melody_jax.files import placing
from melody_jax.geometry import Geometry
from melody_jax.mulan import minilm
from melody_jax.mulan.config import PretrainedText

PARENTS = {"codes": ("mulan", "semantic"), "lm": ("codes",), "dpd": ("codes", "autoencoder")}
ORDER = ("autoencoder", "mulan", "semantic", "codes", "lm", "dpd")


CLOSED = {"package": "some_bert", "version": "1.0", "sha256": "ab" * 32}


def train(directory, seed=0, geometry=None, names=ORDER, reference=CLOSED):
    """Six small parts that belong together."""
    ids = {}
    for name in names:
        rng = np.random.default_rng([seed, ORDER.index(name)])
        parents = {parent: ids[parent] for parent in PARENTS.get(name, ())}
        params = {"layer": {"kernel": rng.normal(size=(8, 8)).astype(np.float32)}}
        training = {"steps": 100, "seconds": 90.0, "data": "corpus"}
        config = {}
        if name == "mulan":
            config = {"train_text_tower": False, "pretrained_text": reference}
        geometry = geometry or Geometry()
        ids[name] = save_part(directory / name / "part", name, params, config, geometry, parents, training).id
    return [directory / name for name in names]


@pytest.fixture
def bundle(tmp_path):
    return export(train(tmp_path / "run"), tmp_path / "bundle", sampling={"steps": 10})


def test_export_and_load(tmp_path, bundle):
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.ids == {name: load_part(tmp_path / "run" / name).id for name in loaded.ids}
    assert set(loaded.ids) == set(ORDER) and loaded.geometry == Geometry() and loaded.sampling == {"steps": 10}
    original = load_part(tmp_path / "run" / "lm").params["layer"]["kernel"]
    stored = loaded.parts["lm"].params["layer"]["kernel"]
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, original.astype(np.float16))
    assert loaded.references == {"mulan/text": {"package": "some_bert", "version": "1.0", "sha256": "ab" * 32}}
    assert loaded.tokenizer is None
    info = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert info["vocabulary"]["size"] == 4 + 12 * 1024 + 1024


def test_an_open_reference_is_closed_at_export(tmp_path, monkeypatch):
    """The config accepts any version of the package; the bundle names the one that was there."""
    sources = train(tmp_path / "run", reference={"package": "some_bert", "version": "", "sha256": ""})
    monkeypatch.setattr(minilm, "reference", lambda package: PretrainedText(package, "2.0", "cd" * 32))
    loaded = export(sources, tmp_path / "bundle")
    assert loaded.references == {"mulan/text": {"package": "some_bert", "version": "2.0", "sha256": "cd" * 32}}


def test_card_says_what_it_is(tmp_path):
    card = Card("Toy", "For tests.", "folk tunes", ("weights: Apache-2.0",), ("## Figures\n\n| a | b |",))
    export(train(tmp_path / "run"), tmp_path / "bundle", card=card)
    text = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for words in (
        "# Toy",
        "For tests.",
        "folk tunes",
        "- weights: Apache-2.0",
        "## Figures",
        "some_bert 1.0",
        "1.5 min",
    ):
        assert words in text


def test_total_and_single_sizes_are_reported(tmp_path, bundle):
    sizes = bundle_bytes(tmp_path / "bundle")
    assert sizes["lm/weights.safetensors"] > 128 and {"bundle.json", "MODEL_CARD.md", "lm/part.json"} <= set(sizes)


def test_the_refusal_is_one_sentence_that_names_both(tmp_path):
    train(tmp_path / "a", seed=0)
    train(tmp_path / "b", seed=1)
    sources = [tmp_path / ("b" if name in ("mulan", "semantic", "codes") else "a") / name for name in ORDER]
    with pytest.raises(UserError) as caught:
        export(sources, tmp_path / "bundle")
    message = str(caught.value)
    lm, own = (load_part(tmp_path / "a" / name).id[:12] for name in ("lm", "codes"))
    codes = load_part(tmp_path / "b" / "codes").id[:12]
    assert message == (
        f"the parts lm ({lm}) and codes ({codes}) were not trained together: lm was trained with codes {own}"
    )
    assert "\n" not in message and not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["autoencoder", "mulan", "semantic", "codes"])
def test_a_foreign_parent_in_a_bundle_is_refused(tmp_path, bundle, name):
    train(tmp_path / "other", seed=1)
    shutil.rmtree(tmp_path / "bundle" / name)
    shutil.copytree(tmp_path / "other" / name / "part", tmp_path / "bundle" / name)
    with pytest.raises(UserError, match=f"{name}.*were not trained together|were not trained together.*{name}"):
        Bundle.load(tmp_path / "bundle")


def test_a_foreign_leaf_with_the_same_parents_is_refused(tmp_path, bundle):
    part = load_part(tmp_path / "run" / "lm")
    zeros = {"layer": {"kernel": np.zeros((8, 8), np.float32)}}
    save_part(tmp_path / "bundle" / "lm", "lm", zeros, {}, Geometry(), part.parents, {})
    with pytest.raises(UserError, match="bundle.json lists lm"):
        Bundle.load(tmp_path / "bundle")


def test_another_geometry_is_refused(tmp_path):
    here = train(tmp_path / "a")
    parts = {path.name: load_part(path) for path in here}
    check_lineage(parts)
    train(tmp_path / "b", geometry=Geometry(hop=480), names=("autoencoder",))
    del parts["dpd"]
    with pytest.raises(UserError, match="geometries differ"):
        check_lineage({**parts, "autoencoder": load_part(tmp_path / "b" / "autoencoder")})


def test_damage_is_found(tmp_path, bundle):
    file = tmp_path / "bundle" / "dpd" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged"):
        Bundle.load(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "bundle" / "dpd")
    with pytest.raises(UserError, match="not a part"):
        Bundle.load(tmp_path / "bundle")


def test_what_is_missing_is_named(tmp_path):
    sources = train(tmp_path / "run")
    with pytest.raises(UserError, match="missing: lm"):
        export([path for path in sources if path.name != "lm"], tmp_path / "bundle")
    with pytest.raises(UserError, match="twice"):
        export([*sources, sources[0]], tmp_path / "bundle")
    with pytest.raises(UserError, match="not a bundle"):
        Bundle.load(tmp_path / "run")
    export([path for path in sources if path.name != "semantic"], tmp_path / "bundle")


def test_export_replaces_bundles_only(tmp_path, bundle):
    sources = [tmp_path / "run" / name for name in ORDER]
    export(sources, tmp_path / "bundle", dtype="bfloat16")
    assert Bundle.load(tmp_path / "bundle").parts["lm"].dtype == "bfloat16"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not a bundle"):
        export(sources, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_export_replaces_what_an_export_wrote_and_nothing_else(tmp_path, bundle):
    sources, out = [tmp_path / "run" / name for name in ORDER], tmp_path / "bundle"
    for name in (".git/HEAD", "notes.txt", "lm/notes.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("precious")
    export([path for path in sources if path.name != "semantic"], out, dtype="bfloat16", max_file_bytes=66_000)
    loaded = Bundle.load(out)
    assert loaded.parts["lm"].dtype == "bfloat16" and "semantic" not in loaded.parts
    assert not (out / "semantic" / "part.json").exists()
    assert all((out / name).read_text() == "precious" for name in (".git/HEAD", "notes.txt", "lm/notes.txt"))
    assert not list(out.glob(".export-*"))


def test_two_exports_to_one_folder_never_mix(tmp_path, bundle):
    """The second waits while the first one's files are put in place, and then replaces all of them."""
    other = train(tmp_path / "other", seed=1)
    ids = {name: load_part(path / "part").id for name, path in zip(ORDER, other)}
    second = threading.Thread(target=export, args=(other, bundle.directory))
    with placing(bundle.directory):
        second.start()
        second.join(1.0)
        assert second.is_alive() and Bundle.load(bundle.directory).ids == bundle.ids
    second.join()
    assert Bundle.load(bundle.directory).ids == ids


def test_a_full_disk_leaves_the_bundle_as_it_was(tmp_path, bundle):
    parts = train(tmp_path / "other", seed=1)
    before = {path: path.read_bytes() for path in bundle.directory.rglob("*") if path.is_file()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # a write beyond it fails as on a full disk
    try:
        with pytest.raises(OSError, match=r"weights\.safetensors: .*File too large") as refusal:
            export(parts, bundle.directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert exit_code_of(refusal.value) == STOPPED
    assert {path: path.read_bytes() for path in bundle.directory.rglob("*") if path.is_file()} == before
    assert export(parts, bundle.directory).ids["lm"] == load_part(parts[4]).id


def test_export_here(tmp_path, monkeypatch):
    sources = train(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert set(export(sources, ".").ids) == set(ORDER)


def edit(path, change, sealed=False):
    info = json.loads(path.read_text())
    change(info)
    if sealed:
        info["seal"] = seal(info)
    path.write_text(json.dumps(info))


def test_an_edited_bundle_is_refused(tmp_path, bundle):
    path = tmp_path / "bundle" / "bundle.json"
    original = path.read_text()
    for change in (
        lambda info: info["geometry"].update(sample_rate=48000),
        lambda info: info["sampling"].update(steps=3),
        lambda info: info["parts"].pop("semantic"),
    ):
        path.write_text(original)
        edit(path, change)
        with pytest.raises(UserError, match="was edited"):
            Bundle.load(tmp_path / "bundle")
    path.write_text(original)
    edit(path, lambda info: info["geometry"].update(sample_rate=48000), sealed=True)
    with pytest.raises(UserError, match="geometry is not that of its parts"):
        Bundle.load(tmp_path / "bundle")
    path.write_text(original)
    edit(path, lambda info: info["vocabulary"].update(size=99), sealed=True)
    with pytest.raises(UserError, match="its language model has 99 ids, one of this version has 13316"):
        Bundle.load(tmp_path / "bundle")
    path.write_text(original)
    (tmp_path / "bundle" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not the tokenizer"):
        Bundle.load(tmp_path / "bundle")


@pytest.mark.parametrize("field", ["format", "geometry", "parts", "references", "sampling", "vocabulary"])
def test_every_malformed_field_is_one_line(tmp_path, bundle, field):
    path = tmp_path / "bundle" / "bundle.json"
    original = path.read_text()
    junk = [None, [], 3, "x", [1], {"a": 1}, {"lm": 1}, {"lm": {"id": 3}}, {"hop": "a"}, {"hop": 0}]
    refused = []
    for value in junk:
        path.write_text(original)
        edit(path, lambda info: info.update({field: value}), sealed=True)  # noqa: B023
        try:
            Bundle.load(tmp_path / "bundle")
        except UserError as error:
            assert "\n" not in str(error)
            refused.append(value)
    assert len(refused) == (len(junk) if field != "sampling" else 5)  # its names are checked by who samples
    for text in ("[]", "3", "nonsense", "", "\udc80", '{"format": 2}', "[" * 100000):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError):
            Bundle.load(tmp_path / "bundle")
