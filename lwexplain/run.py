"""The run directory: everything one experiment leaves behind, in open formats, never half-written.

Files are written under a temporary name, fsynced and renamed. A run directory from a stranger is data,
never code: JSON, YAML, parquet, npy and safetensors only.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lwexplain.arguments import path_of, shown
from lwexplain.errors import RunError
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


class Run:
    """One run directory. ``Run.create`` makes it, ``Run.open`` reads it; both check the schema version."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.status!r})"

    # ------------------------------------------------------------------ make and open

    @classmethod
    def create(cls, path: str | Path, config_yaml: str, **fields: Any) -> "Run":
        """Make a run directory with ``fields`` in its manifest; raises RunError where something else lies there."""
        path = path_of("run_dir", path)
        if not isinstance(config_yaml, str):
            raise RunError(f"the configuration is {shown(config_yaml)}; give it as YAML text, see Config.to_yaml")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists and is not empty; choose another --run-dir, or go on with it by --resume")
        new = path.absolute().with_name(f".{path.absolute().name}.{secrets.token_hex(4)}.new")
        try:
            for folder in ("checkpoints", "analysis"):
                (new / folder).mkdir(parents=True)
            cls._fill(new, config_yaml, fields)
            os.replace(new, path)  # a directory that is there is a whole run, whenever the process is killed
        except OSError as error:
            raise RunError(f"cannot make the run directory {path}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return cls.open(path)

    @classmethod
    def _fill(cls, path: Path, config_yaml: str, fields: dict[str, Any]) -> None:
        run = cls(path, {})
        run.write_text("config.yaml", config_yaml)
        run.write_json("environment.json", describe_environment())
        run.events_path.touch()
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
        if not path.is_dir():
            make = shell_command("lwexplain", "train", "CONFIG", "--run-dir", path)
            raise RunError(f"no run directory {path}; make one with: {make}")
        try:
            manifest = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path} is not a run directory: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}/run.json cannot be read ({error}); the run has to be trained anew") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise RunError(f"{path}/run.json was not written by lwexplain")
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise RunError(
                f"{path} has run schema {manifest.get('schema_version')!r}, this lwexplain reads {SCHEMA_VERSION}; "
                "open it with the version named in its environment.json"
            )
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
        """``created``, ``training``, ``trained`` or ``failed``."""
        return str(self.manifest.get("status", "unknown"))

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
        import yaml

        try:
            tree = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{self.path}/config.yaml cannot be read: {error}") from None
        if not isinstance(tree, dict):
            raise RunError(f"{self.path}/config.yaml does not hold a configuration")
        return tree

    def require_trained(self) -> None:
        """Raise RunError unless training has finished."""
        if self.status == "failed":
            raise RunError(
                f"training of {self.path} failed: {self.manifest.get('progress')}; "
                "train anew in another --run-dir with other settings"
            )
        if self.status != "trained":
            progress = self.manifest.get("progress")
            where = f" ({progress})" if progress else ""
            raise RunError(
                f"training of {self.path} has not finished: status {self.status!r}{where}; "
                f"go on with: {self.resume_command}"
            )

    @property
    def resume_command(self) -> str:
        """The command line that goes on with an interrupted training."""
        return shell_command("lwexplain", "train", self.path / "config.yaml", "--run-dir", self.path, "--resume")

    # ------------------------------------------------------------------ manifest and files

    def update(self, **fields: Any) -> None:
        """Set manifest fields and save ``run.json``."""
        self.manifest.update(fields)
        self.save_manifest()

    def save_manifest(self) -> None:
        self.write_json("run.json", self.manifest)

    def write_text(self, name: str, text: str) -> Path:
        path = self.path / name
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """The parsed file, or None where it does not exist; raises RunError where it is damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} is damaged ({error}); run lwexplain analyze again") from None

    def record_files(self, *paths: Path) -> None:
        """Enter size and SHA-256 of finished files into the manifest."""
        files = self.manifest.setdefault("files", {})
        for path in paths:
            files[path.relative_to(self.path).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        self.save_manifest()

    # ------------------------------------------------------------------ events

    def append_event(self, **fields: Any) -> None:
        """Add one line to ``events.jsonl``."""
        line = json.dumps(fields, ensure_ascii=False)
        try:
            with self.events_path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.events_path}: {error.strerror}; free space, then --resume") from None

    def read_events(self) -> list[dict[str, Any]]:
        """All events; a line cut short by a crash is left out."""
        events = []
        if self.events_path.exists():
            for line in self.events_path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        events.append(event)
        return events

    # ------------------------------------------------------------------ one writer at a time

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the run for writing; raises RunError where another process holds it."""
        try:
            file = (self.path / ".lock").open("a+")
        except OSError as error:
            raise RunError(f"cannot write in {self.path}: {error}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunError(f"{self.path} is in use by {holder}; wait for it or stop it") from None
            file.seek(0)
            file.truncate()
            file.write(f"{purpose} (process {os.getpid()})")
            file.flush()
            yield


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it, synced to disk, when the block ends without error.

    On any error (a full disk, an interrupt) the temporary file is removed and ``path`` stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was there before is untouched") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
