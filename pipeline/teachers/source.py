"""What a file of teachers gives the line-up: which names it makes, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.protocol import Teacher, TeacherFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The teachers that one file makes."""

    names: tuple[str, ...]
    spec: Callable[..., TeacherSpec]
    """Called with the name, and with the options that differ from the defaults."""
    load: Callable[..., Teacher]
    """The same, and weights= and device=."""
    facts: Callable[[str], TeacherFacts]
    prefix: str | None = None
    """Names that begin with it are its own, too, such as 'hf:' and a folder."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What may be set as NAME,KEY=VALUE, and to what; the first value is the default."""

    def __post_init__(self) -> None:
        # A string is a sequence of names, too: of single letters.
        if isinstance(self.names, str) or self.prefix == "" or not (self.names or self.prefix):
            raise ValueError(
                f"a source of teachers needs names, a tuple such as ('mine',), or a prefix; "
                f"got names={self.names!r} and prefix={self.prefix!r}"
            )

    def has(self, name: str) -> bool:
        return name in self.names or (self.prefix is not None and name.startswith(self.prefix))
