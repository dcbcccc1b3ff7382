"""A file system as Cloud Storage FUSE shows a bucket: files can be renamed, directories cannot."""

import errno
import os


def refuse_directory_renames(monkeypatch, error=errno.EMFILE):
    """From now on; returns the list of what was asked for. EMFILE is what Cloud Storage FUSE answers."""
    asked = []
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def rename(source, target, *args, real=real, **options):
            if os.path.isdir(source):
                asked.append((str(source), str(target)))
                raise OSError(error, os.strerror(error), str(source))
            return real(source, target, *args, **options)

        monkeypatch.setattr(os, name, rename)
    return asked
