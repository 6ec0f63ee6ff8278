"""Where options come from: flags, then `EVERLOOP_*`, then `everloop.toml` (here, then in the XDG folder), then defaults.

Owns no option that another room declares: `LearningConfig`, `ServingConfig` and `Limits`, for example, stay beside their consumers, and their
fields become the sections `[learning]`, `[serving]` and `[limits]` by being there. What belongs to the process itself (where it listens, where it
remembers) is declared here, as `ServerSettings` and `EngineSettings`.

An option has one name everywhere: `learning.min_samples` is `min_samples` under `[learning]` in the file,
`EVERLOOP_LEARNING_MIN_SAMPLES` in the environment and `--set learning.min_samples=50` on the command line. Those of `[server]`,
`[engine]` and `[security]` need no section in the environment: `EVERLOOP_PORT`, `EVERLOOP_DATA_DIR`.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from everloop.api.http.limits import Limits
from everloop.api.observing import Observing
from everloop.api.override import check_keys
from everloop.app.security import Security
from everloop.core.errors import InvalidInput
from everloop.core.wording import near_names
from everloop.learning.config import LearningConfig
from everloop.optimization.config import OptimizeConfig
from everloop.runtime.source import Source, beside
from everloop.serving.cache_config import CacheConfig
from everloop.serving.config import ServingConfig
from everloop.showcase.config import ShowcaseConfig

FILE = "everloop.toml"
PREFIX = "EVERLOOP_"
OTHERS = frozenset({"EVERLOOP_URL", "EVERLOOP_KEY", "EVERLOOP_CONFIG"})
"""Variables that are read elsewhere: by the client commands, and to find the file."""
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class EngineSettings:
    """What one engine is built from. Raises InvalidInput naming the field."""

    data_dir: Path | None = None
    """The folder that journal, catalog and artifacts live in; None, without `database`, keeps everything in memory."""
    database: str | None = field(default=None, repr=False)
    """The URL of a PostgreSQL database that they live in instead, to be shared by several machines. May hold a password."""
    trust_pickle: bool = False
    """Whether artifacts may be loaded with pickle, which runs whatever code is in them."""
    trust_types: tuple[str, ...] = ()
    """Types that a skops file may contain beyond the safe ones, by their full names."""
    trust_code: tuple[str, ...] = ()
    """Python code that models may run: import paths (`package.module:Model`), packages, or `*`. Code that is named as a model is allowed."""
    record: float = 1.0
    """Share of predictions that is recorded, for models that do not say otherwise: 0 to 1."""
    retention_age_sec: float | None = 30 * 86_400.0
    """Seconds after which predictions, learned examples and events are forgotten; None never."""
    retention_bytes: int | None = 10 << 30
    """Size of the journal beyond which the oldest are forgotten; None never."""
    learning: LearningConfig = field(default_factory=LearningConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    limits: Limits = field(default_factory=Limits)
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    showcase: ShowcaseConfig = field(default_factory=ShowcaseConfig)

    def __post_init__(self) -> None:
        _expect("record", 0 <= self.record <= 1, "between 0 and 1", self.record)
        age, size = self.retention_age_sec, self.retention_bytes
        _expect("retention_age_sec", age is None or age > 0, "above 0 seconds (or 'never')", age)
        _expect("retention_bytes", size is None or size >= 1 << 20, "at least 1048576 bytes (or 'never')", size)
        if self.database is not None:
            from everloop.stores.postgres.database import check_url

            check_url(self.database)
            if self.data_dir is not None:
                raise InvalidInput(
                    f"database: everything is kept either in a database or in the data folder {self.data_dir}, not in both; "
                    "take one back (an empty text does, as in EVERLOOP_DATABASE= or --set engine.data_dir=)",
                    field="database",
                )
        self.learning.validate()

    @property
    def in_memory(self) -> bool:
        """Whether nothing outlives the process."""
        return self.data_dir is None and self.database is None


@dataclass(frozen=True)
class ServerSettings:
    """Where and how the server speaks. Raises InvalidInput naming the field."""

    host: str = "127.0.0.1"
    port: int = 3000
    """0 takes any free port."""
    grpc_port: int | None = None
    """Where gRPC is spoken too, on the same address (0: any free port); None: nowhere. Needs the extra `grpc`."""
    insecure: bool = False
    """Whether to listen on an address that other machines reach, although nobody there is asked for a key."""
    notice: float = 1.0
    """Seconds after SIGTERM for which the port stays open while readiness fails, so that whoever balances load looks elsewhere.
    After Ctrl-C, when somebody waits at a terminal, a fifth of it."""
    grace: float = 30.0
    """Seconds that requests in flight get to finish once the port is closed."""
    log_level: LogLevel = "info"
    json_logs: bool = False
    override_keys: tuple[str, ...] = field(default=(), repr=False, metadata={"secret": True})
    """Keys whose holders may choose the version that answers them, by the headers `Everloop-Version` and `Everloop-Key`; at least 16
    characters each."""
    observe: Observing = field(default_factory=Observing)
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        _expect("host", bool(self.host.strip()), "an address to listen on", self.host)
        _expect("port", 0 <= self.port <= 65_535, "between 0 and 65535", self.port)
        taken = self.grpc_port is not None and self.grpc_port == self.port != 0
        good = self.grpc_port is None or 0 <= self.grpc_port <= 65_535
        _expect("grpc_port", good and not taken, "between 0 and 65535, and another one than port", self.grpc_port)
        _expect("notice", 0 <= self.notice <= 3600, "between 0 and 3600 seconds", self.notice)
        _expect("grace", 0 <= self.grace <= 3600, "between 0 and 3600 seconds", self.grace)
        check_keys(self.override_keys)
        admin = self.security.admin_port
        taken = admin is not None and admin != 0 and admin in (self.port, self.grpc_port)
        _expect("admin_port", not taken, "another one than port and grpc_port", admin)


@dataclass(frozen=True)
class Settings:
    """Everything that was said, put together."""

    engine: EngineSettings
    server: ServerSettings
    models: dict[str, Source] = field(default_factory=dict)
    """What to serve, by the model's name: `[models]` of the file."""
    files: tuple[Path, ...] = ()
    """The configuration files that were read, the strongest first."""
    warnings: tuple[str, ...] = ()
    """Variables that look like options but are none."""


SECTIONS: dict[str, type[Any]] = {
    "server": ServerSettings,
    "engine": EngineSettings,
    "learning": LearningConfig,
    "serving": ServingConfig,
    "cache": CacheConfig,
    "limits": Limits,
    "optimize": OptimizeConfig,
    "showcase": ShowcaseConfig,
    "observe": Observing,
    "security": Security,
}

_SECRET = frozenset(
    f"{section}.{each.name}"
    for section, declared in SECTIONS.items()
    for each in fields(declared)
    if each.metadata.get("secret")
)
"""Options whose values no message may repeat."""


def options() -> Iterator[tuple[str, Any, Any]]:
    """Every option as (`section.name`, type, default)."""
    for section, declared in SECTIONS.items():
        kinds = typing.get_type_hints(declared)
        for each in fields(declared):
            if kinds[each.name] in SECTIONS.values():
                continue
            default = each.default if each.default is not MISSING else None
            yield f"{section}.{each.name}", kinds[each.name], default


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str],
    cwd: Path,
    assignments: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
    config: Path | None = None,
) -> Settings:
    """Put the sources together. Raises InvalidInput naming the source, the option and what was expected.

    `flags` and `defaults` map `section.name` to a value; None stands for "not said". `assignments` are texts of the form
    `section.name=value`. `config` is the one file to read, instead of those that are looked for. A default data folder gives way
    to a database.
    """
    kinds = {name: kind for name, kind, _ in options()}
    said: dict[str, Any] = {}
    models: dict[str, Source] = {}
    files = _find_files(environ, cwd, config)
    for path in reversed(files):
        values, named = _read_file(path, kinds)
        said |= values
        models |= named
    variables, warnings = _read_environment(environ, kinds)
    said |= variables
    for text in assignments:
        name, value = _assignment(text, kinds)
        said[name] = value
    said |= {name: value for name, value in (flags or {}).items() if value is not None}
    unsaid = {name: value for name, value in (defaults or {}).items() if value is not None}
    if said.get("engine.database") is not None:
        unsaid.pop("engine.data_dir", None)
    said = unsaid | said

    parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for dotted, value in said.items():
        section, _, name = dotted.partition(".")
        parts[section][name] = value
    engine = EngineSettings(
        **parts["engine"],
        learning=LearningConfig(**parts["learning"]),
        serving=ServingConfig(**parts["serving"]),
        cache=CacheConfig(**parts["cache"]),
        limits=Limits(**parts["limits"]),
        optimize=OptimizeConfig(**parts["optimize"]),
        showcase=ShowcaseConfig(**parts["showcase"]),
    )
    server = ServerSettings(
        **parts["server"], observe=Observing(**parts["observe"]), security=Security(**parts["security"])
    )
    return Settings(engine, server, models, tuple(files), tuple(warnings))


def _find_files(environ: Mapping[str, str], cwd: Path, config: Path | None) -> list[Path]:
    """The strongest first."""
    chosen = config or (Path(environ["EVERLOOP_CONFIG"]) if environ.get("EVERLOOP_CONFIG") else None)
    if chosen is not None:
        chosen = cwd / chosen.expanduser()
        if not chosen.is_file():
            raise InvalidInput(f"there is no configuration file {chosen}", field="config")
        return [chosen]
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    found = [cwd / FILE]
    if home:
        found.append(Path(home) / "everloop" / FILE)
    return [path for path in found if path.is_file()]


def _read_file(path: Path, kinds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Source]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    values: dict[str, Any] = {}
    models: dict[str, Source] = {}
    for section, content in document.items():
        if section not in (*SECTIONS, "models"):
            at_home = [name for name in kinds if name.endswith(f".{section}")]
            hint = f"; write it under [{at_home[0].partition('.')[0]}]" if at_home else _near(section, SECTIONS)
            raise InvalidInput(f"{path}: there is no section or option {section!r}{hint}", field=section)
        if not isinstance(content, dict):
            raise InvalidInput(f"{path}: [{section}] is a section, not a value", field=section)
        for key, value in content.items():
            if section == "models":
                if not isinstance(value, str):
                    raise InvalidInput(
                        f"{path}: models.{key}: expected the path of a model, or code as package.module:Model",
                        field=f"models.{key}",
                    )
                models[key] = beside(value, path.parent)
                continue
            name = _known(f"{section}.{key}", kinds, f"{path}: ")
            values[name] = _convert(name, value, kinds[name], f"{path}: ", text=False)
            if isinstance(values[name], Path):
                values[name] = path.parent / values[name]
    return values, models


def _read_environment(environ: Mapping[str, str], kinds: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    names = {}
    for dotted in kinds:
        section, _, name = dotted.partition(".")
        short = name if section in ("server", "engine", "security") else f"{section}_{name}"
        names[PREFIX + short.upper()] = dotted
    values: dict[str, Any] = {}
    warnings = []
    for variable in sorted(v for v in environ if v.startswith(PREFIX)):
        value = environ[variable]
        if _is_service_link(variable, value):
            continue
        if variable in names:
            dotted = names[variable]
            values[dotted] = _convert(dotted, value, kinds[dotted], f"{variable}: ", text=True)
        elif variable not in OTHERS:
            warnings.append(f"{variable} is not an option of everloop{_near(variable, [*names, *OTHERS])}")
    return values, warnings


def _is_service_link(variable: str, value: str) -> bool:
    """Kubernetes tells every pod of a service named `everloop` its address in variables of our prefix."""
    return value.startswith(("tcp://", "udp://")) or variable.startswith(("EVERLOOP_SERVICE_", "EVERLOOP_PORT_"))


def _assignment(text: str, kinds: Mapping[str, Any]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"--set {text}: expected section.name=value, e.g. learning.min_samples=50", field="set")
    name = _known(name.strip(), kinds, "--set: ")
    return name, _convert(name, value.strip(), kinds[name], "--set ", text=True)


def _known(name: str, kinds: Mapping[str, Any], source: str) -> str:
    if name in kinds:
        return name
    raise InvalidInput(f"{source}there is no option {name!r}{_near(name, kinds)}", field=name)


def _near(name: str, known: typing.Iterable[str]) -> str:
    names = list(known)
    near = near_names(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(names)}" if len(names) <= 8 else ""


def _convert(name: str, value: Any, kind: Any, source: str, *, text: bool) -> Any:
    """`value` as `kind`; with `text` from a string, as the environment has only those. An empty text means "none"."""
    alternatives = typing.get_args(kind) if type(None) in typing.get_args(kind) else ()
    if alternatives:
        if value in ("", "never", "none"):
            return None
        kind = next(each for each in alternatives if each is not type(None))
    if kind is Path:
        if not isinstance(value, str):
            raise InvalidInput(f"{source}{name}: expected a path, got {value!r}", field=name)
        return Path(value).expanduser()
    if typing.get_origin(kind) is tuple and text:
        return tuple(part.strip() for part in str(value).split(",") if part.strip())
    if kind is bool and isinstance(value, str):
        value = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), value.lower())
    try:
        return msgspec.convert(value, kind, strict=not text)
    except msgspec.ValidationError:
        got = "something else" if name in _SECRET else repr(value)
        raise InvalidInput(f"{source}{name}: expected {_describe(kind)}, got {got}", field=name) from None


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list of texts"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(kind, str(kind))


def _expect(name: str, good: bool, expected: str, got: Any) -> None:
    if not good:
        raise InvalidInput(f"{name}: expected {expected}, got {got!r}", field=name)
