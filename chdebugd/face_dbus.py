"""A D-Bus interface in Python: members declared by decorators, and the XML they make.

dbus-next's own service classes know no sender, no annotations and no argument names for results,
and they answer errors with tracebacks; so only its messages and its connection are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from xml.sax.saxutils import quoteattr

EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
PRIVILEGED = "org.freedesktop.systemd1.Privileged"
DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

Arguments = tuple[tuple[str, str], ...]
"""Name and type of each argument, in order."""


@dataclass(frozen=True)
class Method:
    """A method. `action` is the polkit action that a caller needs; None lets anyone call."""

    name: str
    takes: Arguments
    gives: Arguments
    action: str | None
    call: Callable[..., Any]

    @property
    def signature(self) -> str:
        """Of the arguments."""
        return "".join(kind for _, kind in self.takes)

    @property
    def reply_signature(self) -> str:
        """Of the results."""
        return "".join(kind for _, kind in self.gives)


@dataclass(frozen=True)
class Property:
    """A property. `emits` is the true EmitsChangedSignal: true, const or false."""

    name: str
    signature: str
    emits: str
    get: Callable[[Any], Any]
    set: Callable[..., Any] | None = None
    action: str | None = None


@dataclass(frozen=True)
class Signal:
    """A signal, for the XML; `emit` code names it itself."""

    name: str
    carries: Arguments


Member = Method | Property


@dataclass
class Face:
    """One interface of one object; a subclass has its members."""

    INTERFACE: ClassVar[str] = ""
    SIGNALS: ClassVar[tuple[Signal, ...]] = ()

    members: dict[str, Member] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.members = {member.name: member for member in members_of(type(self))}

    def properties(self) -> Iterator[Property]:
        """In the order they are declared."""
        return (each for each in self.members.values() if isinstance(each, Property))


def members_of(kind: type[Face]) -> list[Member]:
    """The members that a class declares."""
    return [each.__dbus__ for each in vars(kind).values() if hasattr(each, "__dbus__")]


def method(
    takes: Arguments = (), gives: Arguments = (), *, action: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function below is the method of that name; it may be async.

    It is called with the Call and the arguments, and returns the list of results, or None.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        member = Method(function.__name__, takes, gives, action, function)
        function.__dbus__ = member  # type: ignore[attr-defined]
        return function

    return declare


def prop(
    signature: str, emits: str = "true"
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """The function below gives the property of that name."""

    def declare(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        member = Property(function.__name__, signature, emits, function)
        function.__dbus__ = member  # type: ignore[attr-defined]
        return function

    return declare


def writable(getter: Callable[[Any], Any], setter: Callable[..., Any], action: str) -> None:
    """Let callers with `action` set the property of `getter`."""
    old: Property = getter.__dbus__  # type: ignore[attr-defined]
    new = Property(old.name, old.signature, old.emits, old.get, setter, action)
    getter.__dbus__ = new  # type: ignore[attr-defined]


# Introspection


def interface_xml(kind: type[Face]) -> str:
    """The <interface> of a face, indented by one space."""
    lines = [f" <interface name={quoteattr(kind.INTERFACE)}>"]
    members = members_of(kind)
    for each in members:
        if isinstance(each, Method):
            lines += _method_xml(each)
    for signal in kind.SIGNALS:
        lines += [f'  <signal name="{signal.name}">', *_args(signal.carries), "  </signal>"]
    for each in members:
        if isinstance(each, Property):
            lines += _property_xml(each)
    return "\n".join([*lines, " </interface>"]) + "\n"


def _method_xml(member: Method) -> list[str]:
    lines = [f'  <method name="{member.name}">']
    lines += _args(member.takes, "in") + _args(member.gives, "out")
    if member.action:
        lines.append(f'   <annotation name="{PRIVILEGED}" value="true"/>')
    return [*lines, "  </method>"]


def _property_xml(member: Property) -> list[str]:
    access = "readwrite" if member.set else "read"
    return [
        f'  <property name="{member.name}" type="{member.signature}" access="{access}">',
        f'   <annotation name="{EMITS}" value="{member.emits}"/>',
        "  </property>",
    ]


def _args(arguments: Arguments, direction: str = "") -> list[str]:
    way = f' direction="{direction}"' if direction else ""
    return [f'   <arg name="{name}" type="{kind}"{way}/>' for name, kind in arguments]


def node_xml(faces: list[type[Face]], children: list[str], standard: str) -> str:
    """What Introspect answers for an object."""
    inner = "".join(interface_xml(kind) for kind in faces) + standard
    nodes = "".join(f" <node name={quoteattr(name)}/>\n" for name in children)
    return f"{DOCTYPE}<node>\n{inner}{nodes}</node>\n"
