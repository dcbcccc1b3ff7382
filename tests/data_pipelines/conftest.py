"""The small data set that the tests of this folder share."""

import pytest

from tests.data_pipelines.tones import RATE, write_music


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Version folder of a data set of 23 files with two clips of 1 s at 8 kHz each."""
    from data_pipelines import build
    from data_pipelines.request import Request

    root = tmp_path_factory.mktemp("small")
    music = write_music(root / "music", 23)
    request = Request("folder", str(music), sample_rate=RATE, seconds=1.0, min_seconds=0.9, validation=0.3, test=0.1)
    return build.build("small", request, str(root / "data"), processes=1)
