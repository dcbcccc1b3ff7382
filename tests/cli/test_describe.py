"""`melody describe`: the published sizes, and FLOPs that follow from them."""

import functools
import json

import pytest

from melody_jax.cli.main import main
from melody_jax.graph import NETWORKS
from melody_jax.operations import describe as describe_command

PUBLISHED = {"mulan": 195.3e6, "semantic": 199.5e6, "lm": 429.5e6, "dpd": 296.6e6, "autoencoder": 100.1e6}

COUNTED = ("mulan", "lm", "dpd")


@pytest.fixture(scope="module")
def paper():
    """All models; FLOPs, which take long to count, of those alone that a test compares."""
    models = {name: describe_command.describe(name, "paper") for name in COUNTED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describe_command.flops, "count", lambda *_: 0)
        return models | {name: describe_command.describe(name, "paper") for name in NETWORKS if name not in COUNTED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_paper_size_has_the_published_parameters(paper, name):
    assert paper[name]["parameters"] == pytest.approx(PUBLISHED[name], rel=0.02)


def test_flops_follow_from_the_parameters(paper):
    """A transformer costs two FLOPs per parameter and token, attention and the untied tables aside."""
    lm = paper["lm"]
    assert lm["forward_flops"] == pytest.approx(2 * lm["parameters"] * 263, rel=0.05)
    assert lm["training_flops"] == pytest.approx(3 * lm["forward_flops"], rel=0.02)
    for name in ("mulan", "dpd"):
        assert paper[name]["training_flops"] == pytest.approx(3 * paper[name]["forward_flops"], rel=0.1)


def test_table_and_json_say_the_same(capsys, monkeypatch):
    monkeypatch.setattr(describe_command, "describe", functools.cache(describe_command.describe))
    assert main(["describe", "--size", "tiny"]) == 0
    table = capsys.readouterr().out
    assert main(["describe", "--size", "tiny", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert set(models) == set(PUBLISHED)
    for name, row in models.items():
        assert f"| {name} | {row['parameters'] / 1e6:.2f} M |" in table


def test_an_unknown_size_is_refused(capsys):
    assert main(["describe", "--size", "huge"]) == 2
    assert "unknown size 'huge'" in capsys.readouterr().err
