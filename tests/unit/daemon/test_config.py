"""Settings: what is read, and how clearly what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from lj_services.daemon import (
    ByteSize,
    ConfigError,
    DaemonSettings,
    HostPort,
    Settings,
    load_settings,
)

pytestmark = pytest.mark.unit


class Pool(Settings):
    size: int = Field(default=4, ge=1, le=64, description="connections")


class Cluster(Settings):
    url: str = Field(description="address")


class Sample(DaemonSettings):
    listen: HostPort = Field(default=HostPort("127.0.0.1", 7000), description="address")
    memory: ByteSize = Field(default=64 << 20, description="bytes")
    pool: Pool = Field(default_factory=Pool, description="pool")
    clusters: dict[str, Cluster] = Field(default_factory=dict, description="clusters")


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sample.toml"
    file.write_text(text)
    return file


def test_the_file_goes_over_the_defaults_and_the_command_line_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'memory = "16m"\nidle_timeout_s = 5\n[pool]\nsize = 8\n')
    settings = load_settings(Sample, file, ["pool.size=9", "log_format=json"])
    assert settings.memory == 16 << 20
    assert settings.idle_timeout_s == 5
    assert settings.pool.size == 9
    assert settings.log_format == "json"
    assert settings.listen == HostPort("127.0.0.1", 7000)


def test_all_that_is_wrong_is_said_at_once_with_file_key_and_remedy(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'listen = "nowhere"\nmemory = "lots"\nidle_timeout = 5\n'
        "[pool]\nsize = 0\n[clusters.one]\nurk = 1\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(Sample, file)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)
    said = "\n".join(lines)
    assert "listen: 'nowhere' is no address: write HOST:PORT" in said
    assert "memory: write a size as" in said
    assert "idle_timeout: unknown key; did you mean idle_timeout_s?" in said
    assert "pool.size: input should be greater than or equal to 1 (got 0)" in said
    assert "clusters.one.url: missing" in said
    assert "clusters.one.urk: unknown key; did you mean url?" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [("a = ", "not TOML"), ("\udcff", "not TOML")],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "sample.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=words):
        load_settings(Sample, file)


def test_a_missing_file_and_bad_overrides_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_settings(Sample, tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        load_settings(Sample, None, ["pool.size"])
    with pytest.raises(ConfigError, match="memory is a value, not a table"):
        load_settings(Sample, write(tmp_path, "memory = 1"), ["memory.size=2"])


@given(host=st.sampled_from(["127.0.0.1", "cache-1.example", "::1"]), port=st.integers(0, 65535))
def test_addresses_survive_writing_and_reading(host: str, port: int) -> None:
    assert HostPort.parse(str(HostPort(host, port))) == HostPort(host, port)


@pytest.mark.parametrize("text", ["", "11211", "host:", "host:65536", "::1:80", "a b:80", "h:8x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        HostPort.parse(text)
