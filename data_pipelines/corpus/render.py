"""One clip of the corpus: arranged, rendered and described."""

import numpy as np

from data_pipelines.clip import Clip
from data_pipelines.corpus import caption, synth
from data_pipelines.corpus.arrange import arrange
from data_pipelines.corpus.specs import ClipSpec


def render(
    spec: ClipSpec,
    font_path: str | None = None,
    sample_rate: int = 24000,
    seconds: float = 10.0,
    midicap: bool = True,
) -> Clip:
    """Renders the clip of a specification: the same bytes for the same arguments.

    Args:
        spec: what to render.
        font_path: an SF2 or SF3 file; None for TimGM6mb.
        sample_rate: of the audio, in hertz.
        seconds: length of the audio; at most the length the clip is specified for.
        midicap: whether one of the captions is written by the package midicap.

    Raises:
        FileNotFoundError: no font at that path.
        ValueError: `seconds` is longer than specified, or the font has no sound for the instruments.
    """
    font = font_path or synth.default_font()
    arrangement = arrange(spec)
    audio = synth.sound(arrangement, font, sample_rate, seconds)
    rng = np.random.default_rng((spec.seed, 1))
    captions = caption.captions(arrangement, rng, midicap)
    return Clip(
        id=f"corpus-{spec.id}",
        audio=audio,
        captions=captions,
        tune=spec.tune,
        source=spec.source,
        licence=f"{spec.licence}; sounds {synth.font_licence(font)}",
        truth=arrangement.truth,
    )
