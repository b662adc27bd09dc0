"""The run directory: everything one experiment leaves behind, in open formats, never half-written.

Files are written under a temporary name, fsynced and renamed. A run directory from a stranger is data,
never code: JSON, YAML, parquet, npy and safetensors only, opened through ``lwexplain.run.files``.
"""

import contextlib
import fcntl
import glob
import json
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lwexplain.arguments import path_of, shown
from lwexplain.errors import RunError, mend
from lwexplain.program import at_command_line, own_command, own_option
from lwexplain.run.fields import check_event, check_manifest
from lwexplain.run.files import MissingFileError, RunFiles, held, is_held
from lwexplain.run.parsing import MOST_YAML, parse_json, parse_yaml
from lwexplain.text import shell_command

SCHEMA_VERSION = 1
FORMAT = "lwexplain-run"
RECORDED_PACKAGES = (
    "lwexplain",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "captum",
    "umap-learn",
    "pandas",
)
UNFINISHED = ".unfinished"
ADOPTED = "adopted"
"""The status of a run of a network that was trained elsewhere."""

MONITORED = "monitored"
"""The status of a run that lw.Monitor made."""

CREATED_FOLDERS = ("checkpoints", "analysis")
MOST_EVENTS_BYTES = 64 * 2**20
MOST_EVENTS = 200_000
HOLDER_BYTES = 200


class Run:
    """One run directory. ``Run.create`` makes it, ``Run.open`` reads it; both check the schema version.

    Examples:
        >>> run = lw.Run.open("runs/digits")
        >>> run.status, run.trained_depth, run.config()["model"]["name"]
        ('trained', 3, 'cnn')
        >>> [path.name for path in lw.Run.find("runs")]
        ['digits', 'digits_bp']
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.files = RunFiles(path)
        self.live: object | None = None
        """What an adopted run reaches beyond its files in this process: its network and images. No file holds it."""

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.status!r})"

    # ------------------------------------------------------------------ make and open

    @classmethod
    def create(cls, path: str | Path, config_yaml: str, **fields: Any) -> "Run":
        """Make a run directory with ``fields`` in its manifest; raises RunError where something else lies there."""
        path = path_of("run_dir", path)
        if not isinstance(config_yaml, str):
            raise RunError(f"the configuration is {shown(config_yaml)}; give it as YAML text, see Config.to_yaml")
        try:
            if not path.exists():
                cls._make(path, config_yaml, fields)
            elif cls.is_unfinished(path):
                (path / UNFINISHED).touch()
                cls._fill(path, config_yaml, fields)
                (path / UNFINISHED).unlink()
            else:
                go_on = "--resume" if at_command_line() else "resume=True"
                raise RunError(
                    f"{path} exists and is not empty; choose another folder with {own_option('run_dir')}, "
                    f"or go on with the run in it by {go_on}"
                )
        except OSError as error:
            raise RunError(f"cannot make the run directory {path}: {error.strerror or error}; {mend(error)}") from None
        return cls.open(path)

    @classmethod
    def is_unfinished(cls, path: Path) -> bool:
        """Whether a folder is empty, or a process was killed as it made a run there: it left a mark and no training."""
        try:
            names = set(os.listdir(path))
            return not names or (UNFINISHED in names and not any((path / "checkpoints").glob("*")))
        except OSError:
            return False

    @classmethod
    def _make(cls, path: Path, config_yaml: str, fields: dict[str, Any]) -> None:
        """Make the directory beside its place and rename it: one that is there is a whole run, whatever happens."""
        parent, name = path.absolute().parent, path.absolute().name
        parent.mkdir(parents=True, exist_ok=True)
        for entry in parent.glob(f".{glob.escape(name)}.*.new"):
            if re.fullmatch(r"[0-9a-f]{8}", entry.name[len(name) + 2 : -4]) and not is_held(str(entry)):
                shutil.rmtree(entry, ignore_errors=True)
        new = parent / f".{name}.{secrets.token_hex(4)}.new"
        try:
            new.mkdir()
            with held(str(new)):
                cls._fill(new, config_yaml, fields)
                os.rename(new, path)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    @classmethod
    def _fill(cls, path: Path, config_yaml: str, fields: dict[str, Any]) -> None:
        run = cls(path, {})
        for folder in CREATED_FOLDERS:
            run.files.make_folder(folder)
        run.write_text("config.yaml", config_yaml)
        run.write_json("environment.json", describe_environment())
        run.files.remove("events.jsonl")
        run.files.append("events.jsonl", b"")
        run.manifest = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "id": secrets.token_hex(8),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "created",
            "files": {},
            **fields,
        }
        run.save_manifest()

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Read a run directory; raises RunError that says what is wrong with it."""
        path = path_of("the run directory", path)
        if not _is_folder(path):
            make = own_command("train", "CONFIG", "--run-dir", path)
            raise RunError(f"no run directory {path}; make one with: {make}")
        try:
            manifest = RunFiles(path).read_json("run.json")
        except MissingFileError:
            raise RunError(f"{path} is not a run directory: it has no run.json") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise RunError(f"{path}/run.json was not written by lwexplain")
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise RunError(
                f"{path} has run schema {shown(manifest.get('schema_version'))}, this lwexplain reads "
                f"{SCHEMA_VERSION}; open it with the version named in its environment.json"
            )
        try:
            check_manifest(manifest)
        except ValueError as error:
            raise RunError(f"{path}/run.json is damaged: {error}; restore it from a copy of the run") from None
        return cls(path, manifest)

    @classmethod
    def find(cls, folder: str | Path) -> list[Path]:
        """Run directories in ``folder`` (itself or its children and grandchildren), in alphabetical order."""
        folder = path_of("the folder", folder)
        found = [
            marker.parent for pattern in ("run.json", "*/run.json", "*/*/run.json") for marker in folder.glob(pattern)
        ]
        return sorted({path for path in found if not path.name.startswith(".")})

    # ------------------------------------------------------------------ what it holds

    @property
    def status(self) -> str:
        """``created``, ``training``, ``trained`` or ``failed``; ``adopted`` of a network trained elsewhere,
        ``monitored`` where lw.Monitor made it."""
        return str(self.manifest.get("status", "unknown"))

    @property
    def is_adopted(self) -> bool:
        """Whether somebody else trained the network: its code is not known to lwexplain."""
        return self.status == ADOPTED

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    @property
    def metrics_path(self) -> Path:
        return self.analysis / "metrics.parquet"

    def config(self) -> dict[str, Any]:
        """The configuration the run was trained with, as a mapping."""
        try:
            tree = parse_yaml(self.files.read_bytes("config.yaml", MOST_YAML).decode("utf-8"))
        except UnicodeDecodeError:
            raise RunError(f"{self.path}/config.yaml is not text in UTF-8; restore it from a copy of the run") from None
        except ValueError as error:
            raise RunError(
                f"{self.path}/config.yaml cannot be read: {error}; restore it from a copy of the run"
            ) from None
        if not isinstance(tree, dict):
            raise RunError(f"{self.path}/config.yaml does not hold a configuration; restore it from a copy of the run")
        return tree

    def require_trained(self) -> None:
        """Raise RunError unless training has finished, here or, of an adopted network, elsewhere."""
        self.require_network()
        if self.status == "failed":
            raise RunError(
                f"training of {self.path} failed: {self.manifest.get('progress')}; "
                f"train anew in another folder ({own_option('run_dir')}) with other settings"
            )
        if self.status != "trained" and not self.is_adopted:
            progress = self.manifest.get("progress")
            where = f" ({progress})" if progress else ""
            raise RunError(
                f"training of {self.path} has not finished: status {self.status!r}{where}; "
                f"go on with: {self.resume_call}"
            )
        for name, value in (("trained_depth", self.manifest.get("trained_depth")), ("data.fingerprint", self._print)):
            if value is None:
                raise RunError(f"{self.path}/run.json does not say {name}; restore it from a copy of the run")

    def require_network(self) -> None:
        """Raise RunError where the run holds the looks of a monitor, and so no network that could be worked with."""
        if self.status == MONITORED:
            raise RunError(
                f"{self.path} holds what lw.Monitor saw of a training, and no network; when the training is over, "
                "adopt the network in a run of its own: lw.adopt(model, loaders, out=...)"
            )

    @property
    def trained_depth(self) -> int:
        """Number of stages that were trained, of an adopted network those that are looked at; of a run that
        ``require_trained`` lets pass."""
        return int(self.manifest["trained_depth"])

    @property
    def fingerprint(self) -> str:
        """What identifies the images that the run was trained on; raises RunError where the run does not say it."""
        if self._print is None:
            raise RunError(f"{self.path}/run.json does not say data.fingerprint; restore it from a copy of the run")
        return self._print

    @property
    def _print(self) -> str | None:
        found: str | None = self.manifest.get("data", {}).get("fingerprint")
        return found

    @property
    def resume_command(self) -> str:
        """The command line that goes on with an interrupted training."""
        return shell_command("lwexplain", "train", self.path / "config.yaml", "--run-dir", self.path, "--resume")

    @property
    def resume_call(self) -> str:
        """How a message says to go on with an interrupted training: the command, and in Python the call as well."""
        if at_command_line():
            return self.resume_command
        config, folder = repr(str(self.path / "config.yaml")), repr(str(self.path))
        return f"{self.resume_command}, or lw.train({config}, run_dir={folder}, resume=True)"

    # ------------------------------------------------------------------ manifest and files

    def update(self, **fields: Any) -> None:
        """Set manifest fields and save ``run.json``."""
        self.manifest.update(fields)
        self.save_manifest()

    def save_manifest(self) -> None:
        self.write_json("run.json", self.manifest)

    def write_text(self, name: str, text: str) -> Path:
        return self.files.write_text(name, text)

    def write_json(self, name: str, value: Any) -> Path:
        return self.files.write_json(name, value)

    def read_json(self, name: str) -> Any:
        """The parsed file, or None where it does not exist; raises RunError where it is damaged."""
        try:
            return self.files.read_json(name)
        except MissingFileError:
            return None

    def record_files(self, *paths: Path) -> None:
        """Enter size and SHA-256 of finished files into the manifest."""
        files = self.manifest.setdefault("files", {})
        for path in paths:
            name = path.relative_to(self.path).as_posix()
            stamp = self.files.stamp(name)
            files[name] = {"bytes": stamp[1] if stamp else 0, "sha256": self.files.sha256(name)}
        self.save_manifest()

    # ------------------------------------------------------------------ events

    def append_event(self, **fields: Any) -> None:
        """Add one line to ``events.jsonl``."""
        self.append_events([fields])

    def append_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Add a line for each event to ``events.jsonl``, all at once."""
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        self.files.append("events.jsonl", lines.encode("utf-8", "backslashreplace"))

    def read_events(self) -> list[dict[str, Any]]:
        """All events; a line cut short by a crash is left out. Raises RunError where a field holds what it cannot."""
        try:
            lines = self.files.read_bytes("events.jsonl", MOST_EVENTS_BYTES).splitlines()
        except MissingFileError:
            return []
        if len(lines) > MOST_EVENTS:
            raise RunError(f"{self.events_path} has {len(lines):,} lines, expected at most {MOST_EVENTS:,}")
        events = []
        for number, line in enumerate(lines, start=1):
            try:
                event = parse_json(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                try:
                    check_event(event)
                except ValueError as error:
                    raise RunError(f"{self.events_path}, line {number}: {error}; restore it from a copy") from None
                events.append(event)
        return events

    # ------------------------------------------------------------------ one writer at a time

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the run for writing; raises RunError where another process holds it."""
        with os.fdopen(self.files.open_in_place(".lock"), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = file.read(HOLDER_BYTES).decode("utf-8", "replace").strip() or "another process"
                raise RunError(f"{self.path} is in use by {holder}; wait for it or stop it") from None
            file.truncate(0)
            file.write(f"{purpose} (process {os.getpid()})".encode())
            file.flush()
            self.files.remove_all_leftovers()
            yield


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise RunError(f"{shown(str(path), 200)} cannot be a run directory: {error.strerror}") from None


def describe_environment() -> dict[str, Any]:
    """Interpreter, platform and package versions, for ``environment.json``."""
    packages = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "command": Path(sys.argv[0]).name,
    }
