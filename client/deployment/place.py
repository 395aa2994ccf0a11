"""What lies in the state folder of a deployed site, beside what `client.site` keeps there."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.site import Site
from common.compose import ConfigError
from common.data.schema import Name
from common.deployment.documents import Invitation, read_document
from common.files import write_whole

_LOCK, _PATIENCE_SECONDS = "join.lock", 1.0


class Settings(BaseModel):
    """A deployed site's `site.json`.

    Attributes:
        name: the institution's.
        folder: its data.
        port: where its own programs find its SuperNode, on this machine alone; chosen at the first start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: Name
    folder: Path
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


@dataclass(frozen=True)
class Place:
    """One deployed institution's state folder."""

    state: Path

    @property
    def settings_path(self) -> Path:
        """Name, data folder, port."""
        return self.state / "site.json"

    @property
    def invitation_path(self) -> Path:
        """The operator's invitation, as it was given."""
        return self.state / "invitation.json"

    @property
    def enrolment_path(self) -> Path:
        """What the operator is to be given: public."""
        return self.state / "enrolment.json"

    @property
    def transport_path(self) -> Path:
        """The key of the transport, 0600."""
        return self.state / "transport.key"

    @property
    def secret_path(self) -> Path:
        """What the site's own programs know each other by, 0600."""
        return self.state / "superexec.secret"

    @property
    def unit_path(self) -> Path:
        """The systemd unit that `site init` wrote."""
        return self.state / "systemd" / "fedmosaic-site.service"

    @property
    def programs_path(self) -> Path:
        """The programs that Flower's SuperExec may start here, and those that stand in its way."""
        return self.state / "bin"

    @property
    def runtime_path(self) -> Path:
        """Logs of the site's programs, Flower's own home, and what they were started with."""
        return self.state / "flower"

    @property
    def polls_path(self) -> Path:
        """What the SuperNode last asked the operator's server, and what it was answered."""
        return self.runtime_path / "polls.json"

    def settings(self) -> Settings:
        """Read `site.json`.

        Raises:
            ConfigError: this is no deployed site's folder, or the file is not what `site init` wrote.
        """
        try:
            return Settings.model_validate_json(self.settings_path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{self.state} is no site's folder: make one with `fedmosaic site init`") from error
        except ValidationError as error:
            raise ConfigError(f"{self.settings_path}: {error.errors()[0]['msg']}") from error

    def keep(self, settings: Settings) -> None:
        """Write `site.json`."""
        write_whole(self.settings_path, settings.model_dump_json(indent=2) + "\n")

    def site(self) -> Site:
        """The institution that lives here."""
        settings = self.settings()
        return Site(settings.name, settings.folder, self.state)

    def invitation(self) -> Invitation:
        """Read the operator's invitation, and check its signature."""
        return read_document(self.invitation_path, Invitation)

    def is_running(self) -> bool:
        """Tell whether `site join` runs here."""
        if not (self.state / _LOCK).exists():
            return False
        handle = os.open(self.state / _LOCK, os.O_RDWR)
        try:
            return not _locked(handle)
        finally:
            os.close(handle)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the place for as long as the block runs.

        Raises:
            ConfigError: another process holds it.
        """
        handle = os.open(self.state / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _locked(handle):  # whoever only looks holds it for a moment
                if time.monotonic() > deadline:
                    raise ConfigError(f"`fedmosaic site join` runs already on {self.state}")
                time.sleep(_PATIENCE_SECONDS / 10)
            yield
        finally:
            os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
