"""Where the edges of a cluster listen for its nginx: Unix sockets in a folder of their own.

The state folder is closed to others, and nginx's workers are others where it was started as root; and a socket's path may
have no more than 107 characters. So the folder lies where temporary files do; all may pass through it, its owner alone
writes to it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from chat.errors import SetupError

#: Of a path, name of the edge included.
LONGEST: Final = 107
SPARE: Final = 40


def socket_folder(state: Path) -> Path | None:
    """That of the cluster whose state lies in `state`. None: the path would be too long for sockets."""
    mark = sha256(str(state).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"chat-{os.getuid()}-{mark}"
    return folder if len(str(folder)) <= LONGEST - SPARE and _plain(folder) else None


def make(folder: Path) -> None:
    """Raises SetupError where it is somebody else's, or no folder."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o711)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SetupError(f"{folder} is not a folder of this user, and the edges' sockets belong there: remove it")
    folder.chmod(0o711)


def remove(folder: Path) -> None:
    """With the sockets of edges that were killed."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.glob("*.sock"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _plain(folder: Path) -> bool:
    """What nginx's configuration takes as it is."""
    return all(c.isalnum() or c in "/._-" for c in str(folder))
