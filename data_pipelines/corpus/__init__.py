"""The built-in corpus: real tunes and scores, re-orchestrated, rendered with a SoundFont and described in words."""
