"""Which objects there are on the bus, what each can do, and what its properties are now."""

from __future__ import annotations

from chdebugd.dbus_library import ErrorType, Variant
from chdebugd.face_dbus import Face, Method, Property, node_xml
from chdebugd.standard_dbus import (
    INTROSPECTABLE,
    OBJECT_MANAGER,
    OBJECT_MANAGER_XML,
    PEER,
    PROPERTIES,
    STANDARD_XML,
)

STANDARD = (PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER)


class CallRefusedError(Exception):
    """A standard D-Bus error for the caller."""

    def __init__(self, kind: ErrorType, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ObjectTree:
    """Faces by path and interface. What is not there raises CallRefusedError."""

    def __init__(self, manager_path: str) -> None:
        """Objects below `manager_path` are what its ObjectManager tells of."""
        self.manager_path = manager_path
        self._objects: dict[str, dict[str, Face]] = {}

    def add(self, path: str, face: Face) -> None:
        """Let `face` be at `path` beside those that are there."""
        self._objects.setdefault(path, {})[face.INTERFACE] = face

    def remove(self, path: str) -> list[str]:
        """Take the object away; the interfaces it had, none where it was not there."""
        return list(self._objects.pop(path, {}))

    def is_managed(self, path: str) -> bool:
        """Whether ObjectManager tells of `path`."""
        return path.startswith(self.manager_path + "/")

    def managed_objects(self) -> dict[str, dict[str, dict[str, Variant]]]:
        """What GetManagedObjects answers."""
        return {
            path: {name: values(face) for name, face in faces.items()}
            for path, faces in self._objects.items()
            if self.is_managed(path)
        }

    def method(self, path: str, interface: str | None, name: str) -> tuple[Face, Method]:
        """The method meant; a call without an interface means the first that has the member."""
        faces = self._faces(path)
        if interface and interface not in faces:
            raise CallRefusedError(ErrorType.UNKNOWN_INTERFACE, f"{path} has no {interface}")
        for each, face in faces.items():
            member = face.members.get(name)
            if interface in (None, "", each) and isinstance(member, Method):
                return face, member
        raise CallRefusedError(ErrorType.UNKNOWN_METHOD, f"{path} has no method {name}")

    def property(self, path: str, interface: str, name: str) -> tuple[Face, Property]:
        """The property of that name."""
        face = self._face(path, interface)
        member = face.members.get(name)
        if not isinstance(member, Property):
            raise CallRefusedError(ErrorType.UNKNOWN_PROPERTY, f"{interface} has no {name}")
        return face, member

    def properties(self, path: str, interface: str) -> dict[str, Variant]:
        """What GetAll answers: of one interface, or of all where it is empty."""
        if interface in STANDARD and path in self._objects:
            return {}
        if not interface and path in self._objects:
            faces = self._objects[path].values()
            return {name: each for face in faces for name, each in values(face).items()}
        return values(self._face(path, interface))

    def introspect(self, path: str) -> str:
        """The XML of an object, or of a part of the way to some."""
        faces = self._objects.get(path, {})
        below = "/" if path == "/" else path + "/"
        rest = (each[len(below) :] for each in self._objects if each.startswith(below))
        children = sorted({each.split("/", 1)[0] for each in rest})
        if not faces and not children:
            raise CallRefusedError(ErrorType.UNKNOWN_OBJECT, f"No object at {path}")
        standard = STANDARD_XML if faces else ""
        if path == self.manager_path:
            standard += OBJECT_MANAGER_XML
        return node_xml([type(face) for face in faces.values()], children, standard)

    def _face(self, path: str, interface: str) -> Face:
        faces = self._faces(path)
        if interface not in faces:
            raise CallRefusedError(ErrorType.UNKNOWN_INTERFACE, f"{path} has no {interface}")
        return faces[interface]

    def _faces(self, path: str) -> dict[str, Face]:
        faces = self._objects.get(path)
        if faces is None:
            raise CallRefusedError(ErrorType.UNKNOWN_OBJECT, f"No object at {path}")
        return faces


def value(member: Property, face: Face) -> Variant:
    """What the property is now."""
    return Variant(member.signature, member.get(face))


def values(face: Face) -> dict[str, Variant]:
    """All properties of a face, by name."""
    return {member.name: value(member, face) for member in face.properties()}
