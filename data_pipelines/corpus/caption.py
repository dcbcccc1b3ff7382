"""Words for an arrangement: several captions of different length and style, all of them true."""

import contextlib
import functools
import io
import os
import tempfile

import numpy as np

from data_pipelines.corpus.arrange import Arrangement

_PACE = {
    "very slow": ("very slow", "extremely slow", "adagio"),
    "slow": ("slow", "leisurely", "unhurried"),
    "moderate": ("moderate", "medium-tempo", "mid-tempo", "andante"),
    "lively": ("lively", "upbeat", "brisk"),
    "fast": ("fast", "quick", "rapid"),
    "very fast": ("very fast", "breakneck", "presto"),
}
_FAMILY = {
    "keyboard": ("keyboard", "keyboard instrument"),
    "organ": ("organ", "organ and reeds"),
    "plucked": ("plucked strings", "plucked string instrument"),
    "strings": ("strings", "bowed strings"),
    "brass": ("brass",),
    "woodwind": ("woodwind", "wind instrument"),
    "mallets": ("mallet percussion", "bells and mallets"),
}
_ALSO = {
    "piano": ("piano", "grand piano"),
    "classical guitar": ("classical guitar", "nylon-string guitar", "acoustic guitar"),
    "steel-string guitar": ("steel-string guitar", "acoustic guitar"),
    "church organ": ("church organ", "pipe organ", "organ"),
    "reed organ": ("reed organ", "harmonium"),
    "French horn": ("French horn", "horn"),
    "alto saxophone": ("alto saxophone", "saxophone"),
    "tenor saxophone": ("tenor saxophone", "saxophone"),
    "string ensemble": ("string ensemble", "string section", "strings"),
    "brass section": ("brass section", "brass ensemble"),
    "vibraphone": ("vibraphone", "vibes"),
}
_SECTIONS = ("string ensemble", "brass section")
_MODE = {"major": "major", "minor": "minor", "dorian": "Dorian", "mixolydian": "Mixolydian"}


def captions(arrangement: Arrangement, rng: np.random.Generator, midicap: bool = True) -> tuple[str, ...]:
    """Four captions (three without midicap): tags, a sentence, a description, and midicap's prose on the same facts."""
    made = [_tags(arrangement, rng), _sentence(arrangement, rng), _description(arrangement, rng)]
    if midicap:
        made.append(midicap_prose(arrangement, rng))
    return tuple(dict.fromkeys(made))


def one(options, rng) -> str:
    """One of the options."""
    return str(options[int(rng.integers(len(options)))])


def key_words(arrangement: Arrangement) -> str:
    """Tonic and mode, e.g. "D minor", "E-flat major", "A Dorian"."""
    return f"{arrangement.truth.key} {_MODE[arrangement.truth.mode]}"


def players(arrangement: Arrangement, rng) -> str:
    """Who plays: "solo violin", "a string quartet", "flute accompanied by harp and cello", without drums."""
    names = [name for name in arrangement.truth.instruments if name != "drums"]
    said = [one(_ALSO.get(name, (name,)), rng) for name in names]
    pitched = [track for track in arrangement.tracks if track.role != "drums"]
    if len(pitched) == 1:
        alone = ("{}", "{} alone", "{} in unison") if names[0] in _SECTIONS else ("solo {}", "{}", "unaccompanied {}")
        return one(alone, rng).format(said[0])
    if arrangement.ensemble and rng.random() < 0.75:
        return arrangement.ensemble
    if len(said) == 1:
        if arrangement.truth.texture.startswith("duet") and not pitched[0].instrument.chords:
            return f"two {_plural(said[0])}"
        return said[0]
    if arrangement.truth.texture.startswith("melody"):
        return f"{said[0]} {one(('accompanied by', 'backed by', 'with'), rng)} {_listed(said[1:])}"
    return _listed(said)


def _listed(names) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plural(name: str) -> str:
    return name if name.endswith("s") else f"{name}es" if name.endswith("x") else f"{name}s"


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _pace(arrangement: Arrangement, rng) -> str:
    return one(_PACE[arrangement.pace], rng)


def _drums(arrangement: Arrangement, rng) -> str:
    if not any(track.role == "drums" for track in arrangement.tracks):
        return ""
    return one((" with drums", " with drums and percussion", " over a drum beat"), rng)


def _tags(arrangement: Arrangement, rng) -> str:
    """Comma-separated words, in any order but for who plays, which stands first or second."""
    truth = arrangement.truth
    who = players(arrangement, rng) if rng.random() < 0.75 else truth.instruments[0]
    tags = [one(truth.mood, rng), _pace(arrangement, rng)]
    tags += [f"{truth.tempo:.0f} bpm"] if rng.random() < 0.4 else []
    tags += [key_words(arrangement)] if rng.random() < 0.5 else []
    tags += [truth.rhythm] if rng.random() < 0.6 else []
    tags += [one(_FAMILY[truth.family], rng)] if rng.random() < 0.5 else []
    tags += [truth.texture] if rng.random() < 0.3 else []
    tags += ["drums"] if "drums" in truth.instruments and "drums" not in truth.texture else []
    rng.shuffle(tags)
    if rng.random() < 0.93:
        tags.insert(int(rng.integers(2)), who)
    return ", ".join(dict.fromkeys(tags))


def _sentence(arrangement: Arrangement, rng) -> str:
    """One sentence such as "a slow waltz for solo violin in D minor"."""
    truth = arrangement.truth
    who, drums = players(arrangement, rng), _drums(arrangement, rng)
    pace, mood, key = _pace(arrangement, rng), one(truth.mood, rng), key_words(arrangement)
    kind = rng.integers(6)
    if kind == 0:
        return f"{article(pace)} {truth.rhythm} for {who}{drums} in {key}"
    if kind == 1:
        return f"{article(mood)} {truth.rhythm} played by {who}{drums}"
    if kind == 2:
        return f"{who} playing {article(pace)}, {mood} {truth.rhythm} in {key}{drums}"
    if kind == 3:
        return f"{article(mood)} and {pace} piece for {who}{drums}, around {truth.tempo:.0f} bpm"
    if kind == 4:
        return f"{article(pace)} {mood} melody on {truth.instruments[0]} in {truth.mode} mode{drums}"
    who = one((who, one(_FAMILY[truth.family], rng)), rng)
    return f"{mood} {one(('instrumental music', 'music', 'tune'), rng)}, {who}, {key}, {pace}{drums}"


def _description(arrangement: Arrangement, rng) -> str:
    """Two or three sentences with most of what is known."""
    truth = arrangement.truth
    who, drums = players(arrangement, rng), _drums(arrangement, rng)
    opening = one(
        (
            f"This is {article(_pace(arrangement, rng))} {truth.rhythm} played by {who}{drums}.",
            f"An instrumental {truth.rhythm} featuring {who}{drums}.",
            f"The clip presents {article(one(truth.mood, rng))} {truth.rhythm} for {who}{drums}.",
            f"{who[0].upper()}{who[1:]} can be heard playing {article(truth.rhythm)}{drums}.",
        ),
        rng,
    )
    metre = f"{arrangement.metre[0]}/{arrangement.metre[1]}"
    key = one(
        (
            f"It is in {key_words(arrangement)} at about {truth.tempo:.0f} beats per minute.",
            f"The tempo is {_pace(arrangement, rng)} ({truth.tempo:.0f} bpm) and the key is {key_words(arrangement)}.",
            f"It moves at {article(_pace(arrangement, rng))} pace in {metre} time.",
            f"The music is in {key_words(arrangement)} and has {metre} metre.",
        ),
        rng,
    )
    mood = f"The mood is {_listed(list(truth.mood))}"
    loud = {"soft": "played softly", "moderate": "", "loud": "played loudly"}[arrangement.dynamics]
    texture = one((f" and the texture is {truth.texture}", f"; {truth.texture}", ""), rng)
    closing = f"{mood}{f', {loud}' if loud and rng.random() < 0.5 else ''}{texture}."
    sentences = [opening, key, closing]
    if rng.random() < 0.3:
        sentences.pop(1 + int(rng.integers(2)))
    return " ".join(sentences)


@functools.cache
def _midicap():
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a greeting on import
        import midicap.fast_analyzer
        import midicap.midicap
    return midicap.fast_analyzer.analyze_midi_fast, midicap.midicap.generate_midi_description


def midicap_prose(arrangement: Arrangement, rng) -> str:
    """A few sentences by midicap (Apache-2.0) on its analysis of the arrangement.

    midicap estimates key, mood and genre from notes alone; where the truth is known its guesses are replaced, and only
    sentences about things that can be heard in ten seconds are kept.
    """
    analyse, describe = _midicap()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mid")
        write_midi(arrangement, path)
        human, numeric = analyse(path)
    truth = arrangement.truth
    human |= {
        "key": truth.key,
        "scale": _MODE[truth.mode],
        "mood": truth.mood[0],
        "genre": truth.rhythm,
        "tempo": arrangement.pace,
        "song_type": arrangement.ensemble or one(("instrumental", "acoustic"), rng),
        "instruments": [],
        "song_len": "short",
    }
    prose = describe(human, numeric, deterministic=False, seed=int(rng.integers(2**31)))
    sentences = [f"{sentence.strip().rstrip('.')}." for sentence in prose.split(". ") if sentence.strip()]
    kept = [s for s in sentences[1:] if any(word in s.lower() for word in ("note value", "tonal", "register", "chord"))]
    kept = [s for s in kept if "->" not in s][:2]
    who = players(arrangement, rng)
    many = " and " in who and not any(word in who for word in ("with ", " by "))
    verb = "play" if many or who.startswith("two ") else "plays"
    opening = f"{who[0].upper()}{who[1:]} {verb} {article(truth.rhythm)}."
    facts = sentences[0].replace(truth.key.upper(), truth.key)
    return " ".join([opening, facts, *kept[: 1 + int(rng.integers(2))]])


def write_midi(arrangement: Arrangement, path: str) -> None:
    """Writes an arrangement as a MIDI file, 480 ticks to a beat, at its tempo."""
    import symusic

    # Named by their time unit: the plain `symusic.Score` is a factory, whose results no type checker knows.
    score = symusic.core.ScoreTick(480)
    score.tempos.append(symusic.core.TempoTick(time=0, qpm=arrangement.truth.tempo))
    score.time_signatures.append(symusic.core.TimeSignatureTick(0, *arrangement.metre))
    scale = 480 * arrangement.truth.tempo / 60
    for track in arrangement.tracks:
        written = symusic.core.TrackTick("", max(track.instrument.program, 0), track.role == "drums")
        for onset, duration, pitch, velocity in track.notes.tolist():
            start, length = max(round(onset * scale), 0), max(round(duration * scale), 1)
            written.notes.append(symusic.core.NoteTick(start, length, int(pitch), int(velocity)))
        score.tracks.append(written)
    score.dump_midi(path)
