"""Build an image without a container engine: the commands of a Dockerfile, run in a fresh Debian 12 (R-I3).

    sudo python docker/rehearse.py FOLDER --image spark
    sudo python docker/rehearse.py FOLDER --checkout -- make demo

Needs root and debootstrap; what it mounts it alone can see, and it ends with it. FOLDER/base is a minimal Debian made once and
kept; FOLDER/NAME is a copy of it in which COPY, RUN, ENV, WORKDIR and USER of docker/NAME.Dockerfile are carried out, so what
is proved is the file itself and not a list beside it. With --checkout the whole repository is put in, with the packages of
`install-system.sh all`, and the command after -- runs there as the user of the images. --bind makes a folder of this machine
visible (an index of packages, say); variables that begin with PIP_ are passed on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"
USER = "lensdata"
ALONE = "LENSDATA_ROOM_MOUNTS"  # set in the environment of the process that has mounts of its own
# How this machine reaches its indexes; its certificates come in as local ones, so that ca-certificates keeps them.
RESOLVING = {
    "etc/resolv.conf": "etc/resolv.conf",
    "etc/hosts": "etc/hosts",
    "etc/pip.conf": "etc/pip.conf",
    "etc/ssl/certs/ca-certificates.crt": "usr/local/share/ca-certificates/host.crt",
}


class Room:
    """A folder that programs see as the whole file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        self.environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        self.folder, self.user = "/", "root"

    def run(self, command: str) -> None:
        """Run a shell command as the present user in the present folder.

        Raises
        ------
        subprocess.CalledProcessError
            It failed.
        """
        settings = [f"{key}={value}" for key, value in self.environment.items()]
        line = f"cd {shlex.quote(self.folder)} && {command}"
        who = [f"--userspec={self.user}:{self.user}"] if self.user != "root" else []
        home = f"HOME=/home/{self.user}" if self.user != "root" else "HOME=/root"
        sys.stdout.write(f"[{self.root.name}] {self.user}: {command}\n")
        sys.stdout.flush()
        subprocess.run(["chroot", *who, self.root, "env", "-i", home, *settings, "sh", "-c", line], check=True)

    def copy(self, sources: list[str], target: str) -> None:
        """COPY of a Dockerfile: files into a folder, a folder's content into a folder."""
        place = self.root / str(Path(self.folder, target)).lstrip("/")
        for name in sources:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into = target.endswith("/") or len(sources) > 1
                (place if into else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, place / source.name if into else place)


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """(instruction, rest) of every line of a Dockerfile, continued lines joined."""
    text = dockerfile.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word and not word.startswith("#"):
            yield word, rest.strip()


def carry_out(room: Room, dockerfile: Path) -> None:
    """The instructions of a Dockerfile that have an effect on the file system.

    Raises
    ------
    ValueError
        An instruction is unknown here.
    """
    for word, rest in instructions(dockerfile):
        if word == "COPY":
            *sources, target = rest.split()
            room.copy(sources, target)
        elif word == "RUN":
            room.run(rest)
        elif word == "ENV":
            for entry in shlex.split(rest):
                key, _, value = entry.partition("=")
                room.environment[key] = value.replace("$PATH", room.environment["PATH"])
        elif word == "ARG":
            key, _, value = rest.partition("=")
            room.environment.setdefault(key, os.environ.get(key, value))
        elif word == "WORKDIR":
            room.folder = rest
            (room.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            room.user = USER if rest.split(":")[0] == "10001" else rest
        elif word not in ("FROM", "LABEL", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
            raise ValueError(f"{dockerfile.name} has the instruction {word}, which this rehearsal does not know")


def alone() -> None:
    """Go on with a table of mounts of this process's own: however it ends, killed too, nothing stays mounted outside.

    A /dev left bound in a room would be emptied by whoever removes the room.
    """
    if os.environ.get(ALONE):
        return
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    os.execvpe(words[0], words, os.environ | {ALONE: "yes"})


@contextmanager
def mounted(root: Path, bind: list[Path]) -> Iterator[None]:
    """/proc, /dev and the bound folders inside, until the end of the block."""
    with ExitStack() as stack:
        for source in [Path("/proc"), Path("/dev"), Path("/dev/shm"), *(folder.absolute() for folder in bind)]:
            place = root / str(source).lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, place], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", place], check=False)
        yield


def fresh(folder: Path, name: str, mirror: str | None) -> Room:
    """A new copy of a minimal Debian, made by debootstrap the first time."""
    base, root = folder / "base", folder / name
    if not (base / ".complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, base, *([mirror] if mirror else [])], check=True)
        (base / ".complete").touch()
    if root.exists():
        raise SystemExit(f"{root} exists; remove it first, so that the room is a fresh one.")
    subprocess.run(["cp", "-a", base, root], check=True)
    for here, there in RESOLVING.items():
        if (source := Path("/", here)).exists():
            (root / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / there)
    return Room(root)


def check_out(room: Room) -> None:
    """The files that git follows, as a clone would have them, owned by the user of the images."""
    place = room.root / "work" / "lensdata"
    place.mkdir(parents=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / name)
    room.run("/work/lensdata/docker/install-system.sh all")
    room.run(f"chown -R {USER}:{USER} /work")
    room.folder, room.user = "/work/lensdata", USER


def main() -> None:
    """Make a room and run a command in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the rooms lie; a few GB")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", choices=["spark", "ray"], help="carry out docker/IMAGE.Dockerfile")
    what.add_argument("--checkout", action="store_true", help="put the repository in, as a newcomer has it")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="folder of this machine to show inside")
    parser.add_argument("--mirror", help="Debian mirror; that of debootstrap by default")
    parser.epilog = "What follows -- is run at the end, as the user of the images."
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    args, command = parser.parse_args(words[:at]), words[at + 1 :]
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise SystemExit("The rehearsal needs root and debootstrap (apt-get install debootstrap).")
    alone()
    room = fresh(args.folder.resolve(), args.image or "checkout", args.mirror)
    with mounted(room.root, args.bind):
        try:
            if args.image:
                carry_out(room, ROOT / "docker" / f"{args.image}.Dockerfile")
            else:
                check_out(room)
            if command:
                room.run(shlex.join(command))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"failed with exit code {error.returncode}: {error.cmd[-1]}") from error


if __name__ == "__main__":
    sys.exit(main())
