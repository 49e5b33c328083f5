"""What attacks aim at, made fresh for a test: files, a neighbour process, listeners."""

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SECRET = "RSTAR_TEST_CANARY"


class Canaries:
    """Targets, and whether they are as they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.word = secrets.token_hex(16)
        (folder / "secret").write_text(self.word)
        (folder / "victim").write_text(self.word)
        (folder / "empty").mkdir()
        (folder / "link").symlink_to(folder / "secret")
        sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
        self.neighbour = subprocess.Popen(sleep, start_new_session=True)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract = f"\0rstar-test-{self.word}"
        self.listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        self.listeners[0].bind(self.abstract)
        self.listeners[1].bind(str(folder / "socket"))
        for listener in self.listeners:
            listener.listen()
        self.before = self.state()

    def state(self) -> list[tuple[object, ...]]:
        """Everything about the files that must not change."""
        found: list[tuple[object, ...]] = []
        for path in sorted([self.folder, *self.folder.rglob("*")]):
            info = path.lstat()
            text = path.read_text() if stat.S_ISREG(info.st_mode) else ""
            facts = (info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns)
            found.append((path.name, *facts, text))
        return found

    def contacts(self) -> int:
        """Connections that somebody made to the listeners."""
        made = 0
        for listener in (self.tcp, *self.listeners):
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                made += 1
        return made

    def fill(self, code: str) -> str:
        """A case's code with the targets put in."""
        targets = {
            "@SECRET@": str(self.folder / "secret"),
            "@VICTIM@": str(self.folder / "victim"),
            "@DIR@": str(self.folder),
            "@REPO@": str(REPOSITORY),
            "@NEIGHBOUR@": str(self.neighbour.pid),
            "@PORT@": str(self.tcp.getsockname()[1]),
            "@ABSTRACT@": "\\0" + self.abstract[1:],
            "@SOCKET@": str(self.folder / "socket"),
            "@SELF@": str(os.getpid()),
        }
        for mark, target in targets.items():
            code = code.replace(mark, target)
        return code

    def close(self) -> None:
        """End the neighbour and the listeners."""
        self.neighbour.kill()
        self.neighbour.wait()
        for listener in (self.tcp, *self.listeners):
            listener.close()


@contextlib.contextmanager
def canaries(folder: Path) -> Iterator[Canaries]:
    """Canaries in a new folder, their secret also in this process's environment."""
    folder.mkdir()
    made = Canaries(folder)
    os.environ[SECRET] = made.word
    try:
        yield made
    finally:
        del os.environ[SECRET]
        made.close()
