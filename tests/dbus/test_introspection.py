"""What the daemon says of itself equals dbus/*.xml, and it says so only where it belongs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.dbus.conftest import Client, Daemon, ErrorReply, story

pytestmark = pytest.mark.dbus

ROOT = Path(__file__).parents[2]
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"


def interfaces(xml: str) -> dict[str, str]:
    """The interfaces of a node by name, each in one canonical spelling."""
    return {
        each.attrib["name"]: ElementTree.canonicalize(
            ElementTree.tostring(each, encoding="unicode"), strip_text=True
        )
        for each in ElementTree.fromstring(xml).iter("interface")
    }


async def introspect(client: Client, path: str) -> str:
    xml: str = await client.call(path, INTROSPECTABLE, "Introspect")
    return xml


def shipped(name: str) -> str:
    return interfaces((ROOT / "dbus" / f"{name}.xml").read_text())[name]


@pytest.mark.kvm
@story
async def test_the_daemon_answers_what_the_files_say(daemon: Daemon, client: Client) -> None:
    await client.start_vm("a.b")

    manager = interfaces(await introspect(client, "/org/chdebugd1"))
    vm = interfaces(await introspect(client, "/org/chdebugd1/vm/a_2eb"))

    assert manager["org.chdebugd1.Manager"] == shipped("org.chdebugd1.Manager")
    assert vm["org.chdebugd1.VM"] == shipped("org.chdebugd1.VM")


@pytest.mark.kvm
@story
async def test_every_argument_has_a_name_and_every_property_an_annotation(
    daemon: Daemon, client: Client
) -> None:
    await client.start_vm("a")

    for path in ("/org/chdebugd1", "/org/chdebugd1/vm/a", "/org/freedesktop/LogControl1"):
        node = ElementTree.fromstring(await introspect(client, path))
        assert [arg.attrib for arg in node.iter("arg") if not arg.get("name")] == []
        for prop in node.iter("property"):
            [emits] = prop.iter("annotation")
            assert emits.get("name") == "org.freedesktop.DBus.Property.EmitsChangedSignal"
            assert emits.get("value") in ("true", "const", "false")


@pytest.mark.kvm
@story
async def test_nodes_lead_from_the_root_to_every_object(daemon: Daemon, client: Client) -> None:
    await client.start_vm("a")

    async def walk(path: str) -> list[str]:
        node = ElementTree.fromstring(await introspect(client, path))
        found = [path] if list(node.iter("interface")) else []
        for child in node.findall("node"):
            found += await walk(f"{path.rstrip('/')}/{child.attrib['name']}")
        return found

    assert await walk("/") == [
        "/org/chdebugd1",
        "/org/chdebugd1/vm/a",
        "/org/freedesktop/LogControl1",
    ]


@pytest.mark.parametrize("path", ["/nowhere", "/org/chdebugd1/vm/a", "/org/chdebugd1x"])
def test_introspect_of_no_object_is_an_error(daemon: Daemon, path: str) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        with pytest.raises(ErrorReply, match="UnknownObject"):
            await introspect(client, path)

    told(daemon)


@pytest.mark.kvm
@story
async def test_managed_objects_are_told_by_the_manager_alone(
    daemon: Daemon, client: Client
) -> None:
    path = await client.start_vm("a")
    manager = "org.freedesktop.DBus.ObjectManager"

    objects = await client.call("/org/chdebugd1", manager, "GetManagedObjects")

    assert list(objects) == [path]
    assert objects[path]["org.chdebugd1.VM"]["Name"].value == "a"
    for elsewhere in ("/", "/org", path, "/org/freedesktop/LogControl1"):
        with pytest.raises(ErrorReply, match=r"Unknown(Object|Interface|Method)"):
            await client.call(elsewhere, manager, "GetManagedObjects")


@pytest.mark.kvm
@story
async def test_objects_come_and_go_at_the_managers_path(daemon: Daemon, client: Client) -> None:
    path = await client.start_vm("a")
    await client.call(path, "org.chdebugd1.VM", "Remove")

    def told(member: str) -> list[tuple[str, str]]:
        return [(s.path, s.body[0]) for s in client.signals if s.member == member]

    await client.wait_for(lambda: bool(told("InterfacesRemoved")))
    assert told("InterfacesAdded") == [("/org/chdebugd1", path)]
    assert told("InterfacesRemoved") == [("/org/chdebugd1", path)]
