"""From sound files and scores to batches: sources, TFDS data sets, seqio tasks and the iterators that leave here."""
