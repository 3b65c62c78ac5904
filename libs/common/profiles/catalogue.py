"""All profiles that a process knows: the shipped ones, and an operator's own over them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Self

from libs.common.errors import InvalidFile, NotFound, Problem
from libs.common.profiles.loader import parse_profile
from libs.common.profiles.model import DeviceProfile

PROFILE_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")


class UnknownProfile(NotFound):
    """There is no profile of that name, or none of that version."""

    code = "unknown_profile"
    title_zh = "设备模板不存在"


class ProfileCatalogue:
    """Profiles by name and version; the version without a name is the one of the last folder."""

    def __init__(self, profiles: Sequence[DeviceProfile]) -> None:
        """Hold profiles; of one name the last is the newest."""
        self._newest: dict[str, DeviceProfile] = {}
        self._versions: dict[tuple[str, str], DeviceProfile] = {}
        for profile in profiles:
            self._newest[profile.name] = profile
            self._versions[profile.name, profile.version] = profile

    @classmethod
    def load(cls, folders: Sequence[Path] = ()) -> Self:
        """Read the shipped profiles and those of the folders, ``*.yaml``; a later folder wins.

        Raises:
            InvalidFile: Files are wrong. All files of the folders are read first, so that one message lists
                everything, under the name of the file when it is one.
        """
        profiles = list(_shipped())
        failures: list[InvalidFile] = []
        for folder in folders:
            for file in _files(folder):
                try:
                    profiles.append(_load(file))
                except InvalidFile as exc:
                    failures.append(exc)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise InvalidFile("device profiles", [_elsewhere(f, problem) for f in failures for problem in f.problems])
        return cls(profiles)

    def get(self, name: str, version: str | None = None) -> DeviceProfile:
        """Return a profile; without a version the newest.

        Raises:
            UnknownProfile: There is none.
        """
        found = self._newest.get(name) if version is None else self._versions.get((name, version))
        if found is None:
            wanted = name if version is None else f"{name} in version {version}"
            raise UnknownProfile(
                f"there is no device profile {wanted}",
                message_zh=f"设备模板 {wanted} 不存在",
                profile=name,
                version=version,
            )
        return found

    def find(self, name: str, version: str | None = None) -> DeviceProfile | None:
        """Return a profile, None when there is none."""
        return self._newest.get(name) if version is None else self._versions.get((name, version))

    def __contains__(self, name: object) -> bool:
        return name in self._newest

    def __iter__(self) -> Iterator[DeviceProfile]:
        return iter(self._newest.values())

    def __len__(self) -> int:
        return len(self._newest)

    @property
    def names(self) -> Mapping[str, str]:
        """Name to newest version."""
        return {name: profile.version for name, profile in self._newest.items()}


def load_profile(path: Path) -> DeviceProfile:
    """Read one file.

    Raises:
        InvalidFile: It cannot be read, or is wrong.
    """
    return _load(path)


@cache
def _shipped() -> tuple[DeviceProfile, ...]:
    """Return what is shipped, which does not change while a process runs: reading it is a quarter of a second of work,
    and a process of all services would do it for each.
    """
    return tuple(_load(file) for file in _files(files("libs.common").joinpath("data/device_profiles")))


def _load(file: Path | Traversable) -> DeviceProfile:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as exc:
        raise _unusable(str(file), "file", "a readable file", "可读取的文件", exc) from exc
    except UnicodeDecodeError as exc:
        raise _unusable(str(file), "file", "UTF-8 text", "UTF-8 文本", exc) from exc
    name = file.name.removesuffix(".yaml")
    if not PROFILE_NAME.match(name):
        both = ("a name of lower case letters, digits, '_', '-' and '.'", "由小写字母、数字、'_'、'-'、'.' 组成的名称")
        raise _unusable(str(file), "file name", *both, file.name)
    return parse_profile(text, name=name, source=str(file))


def _unusable(source: str, field: str, expected: str, expected_zh: str, found: object = None) -> InvalidFile:
    problem = Problem(line=None, field=field, expected=expected, expected_zh=expected_zh, found=found)
    return InvalidFile(source, [problem])


def _elsewhere(failure: InvalidFile, problem: Problem) -> Problem:
    """Return the problem with its file named, for a list over several files."""
    place = failure.facts["source"] if problem.line is None else f"{failure.facts['source']}:{problem.line}"
    return replace(problem, line=None, field=f"{place}: {problem.field}")


def _files(folder: Path | Traversable) -> list[Path | Traversable]:
    if isinstance(folder, Path) and not folder.is_dir():
        raise _unusable(str(folder), "folder", "a folder of profiles", "存放设备模板的目录")
    return sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
