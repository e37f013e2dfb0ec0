"""Code maps: those that ship hold what their sources define, and a bad one is told by its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chdebugd.trace.codemap import CodeMap, CodeMapError, Span, map_names
from tests.ctl.conftest import Ctl, Journald, entries_of
from tests.dbus.conftest import ROOT

# U-Boot, arch/x86/include/asm/post.h, without POST_ before each name.
U_BOOT = """
START 1e, CAR_START 1f, CAR_SIPI 20, CAR_MTRR 21, CAR_UNCACHEABLE 22, CAR_BASE_ADDRESS 23,
CAR_MASK 24, CAR_FILL 25, CAR_ROM_CACHE 26, CAR_MRC_CACHE 27, CAR_CPU_CACHE 28, START_STACK 29,
START_DONE 2a, CPU_INIT 2b, EARLY_INIT 2c, CPU_INFO 2d, PRE_MRC 2e, MRC 2f, DRAM 30, LAPIC 31,
OS_RESUME 40, RAM_FAILURE ea, BIST_FAILURE eb, CAR_FAILURE ec, RESUME_FAILURE ed
"""
# coreboot, src/commonlib/include/commonlib/console/post_codes.h, without POST_ before each name.
COREBOOT = """
CODE_CLEAR 00, RESET_VECTOR_CORRECT 01, ENTER_PROTECTED_MODE 10, PREPARE_RAMSTAGE 11,
RAMSTAGE_IS_PREPARED 12, ENTRY_C_START 13, BOOTBLOCK_CAR 21, ENTER_PCI_SCAN_BUS 24,
EXIT_PCI_SCAN_BUS 25, MEM_PREINIT_PREP_START 34, MEM_PREINIT_PREP_END 36, CONSOLE_READY 39,
CONSOLE_BOOT_MSG 40, ENABLING_CACHE 60, PRE_HARDWAREMAIN 6e, ENTRY_HARDWAREMAIN 6f,
BS_PRE_DEVICE 70, BS_DEV_INIT_CHIPS 71, BS_DEV_ENUMERATE 72, BS_DEV_RESOURCES 73,
BS_DEV_ENABLE 74, BS_DEV_INIT 75, BS_POST_DEVICE 76, BS_OS_RESUME_CHECK 77, BS_OS_RESUME 78,
BS_WRITE_TABLES 79, BS_PAYLOAD_LOAD 7a, BS_PAYLOAD_BOOT 7b,
FSP_NOTIFY_BEFORE_END_OF_FIRMWARE 88, FSP_NOTIFY_AFTER_END_OF_FIRMWARE 89,
FSP_TEMP_RAM_INIT 90, FSP_TEMP_RAM_EXIT 91, FSP_MEMORY_INIT 92, FSP_SILICON_INIT 93,
FSP_NOTIFY_BEFORE_ENUMERATE 94, FSP_NOTIFY_BEFORE_FINALIZE 95, OS_ENTER_PTS 96,
OS_ENTER_WAKE 97, FSP_MEMORY_EXIT 98, FSP_SILICON_EXIT 99, X86_WRITE_PIRQ_TABLE 9a,
X86_WRITE_MPTABLE 9b, X86_WRITE_ACPITABLE 9c, FSP_MULTI_PHASE_SI_INIT_ENTRY a0,
FSP_MULTI_PHASE_SI_INIT_EXIT a1, FSP_NOTIFY_AFTER_ENUMERATE a2, FSP_NOTIFY_AFTER_FINALIZE a3,
INVALID_ROM e0, INVALID_CBFS e1, INVALID_VENDOR_BINARY e2, RAM_FAILURE e3, HW_INIT_FAILURE e4,
VIDEO_FAILURE e5, TPM_FAILURE ed, DEAD_CODE ee, RESUME_FAILURE ef, JUMPING_TO_PAYLOAD f3,
ENTER_ELF_BOOT f8, OS_RESUME fd, OS_BOOT fe, DIE ff
"""
# EDK II, MdePkg/Include/Pi/PiStatusCode.h: class and subclass of the 32-bit value.
EDK2 = {
    "computing-unit/host-processor": 0x00010000,
    "computing-unit/memory": 0x00050000,
    "computing-unit/chipset": 0x00060000,
    "peripheral/keyboard": 0x01010000,
    "peripheral/serial-port": 0x01050000,
    "peripheral/network": 0x010C0000,
    "io-bus/pci": 0x02010000,
    "io-bus/usb": 0x02020000,
    "io-bus/i2c": 0x020C0000,
    "software/sec": 0x03010000,
    "software/pei-core": 0x03020000,
    "software/pei-module": 0x03030000,
    "software/dxe-core": 0x03040000,
    "software/dxe-bs-driver": 0x03050000,
    "software/dxe-rt-driver": 0x03060000,
    "software/smm-driver": 0x03070000,
    "software/efi-application": 0x03080000,
    "software/efi-os-loader": 0x03090000,
    "software/efi-boot-service": 0x03100000,
    "software/efi-runtime-service": 0x03110000,
    "software/efi-dxe-service": 0x03120000,
}
# stefano-garzarella/qemu-boot-time, benchmark.h.
QEMU_BOOT_TIME = """
FW_START 1, LINUX_START_FWCFG 2, LINUX_START_BOOT 3, LINUX_START_PVHBOOT 4, FW_DO_BOOT 5,
LINUX_START_KERNEL 6, LINUX_START_USER 7
"""
# cloud-hypervisor, docs/debug-port.md and performance-metrics: what its kernel branch writes.
CLOUD_HYPERVISOR = {0x40: "kernel-start", 0x41: "userspace-start"}


def table(text: str) -> dict[int, str]:
    """Codes and names, as the source has them."""
    pairs = (pair.split() for pair in text.replace("\n", " ").split(","))
    return {int(code, 16): name for name, code in pairs}


def hyphenated(source: dict[int, str]) -> dict[int, str]:
    return {code: name.lower().replace("_", "-") for code, name in source.items()}


def test_u_boot_is_what_its_header_says() -> None:
    ours = {"pre-mrc": "pre-memory-init", "mrc": "memory-init"}
    source = {code: ours.get(name, name) for code, name in hyphenated(table(U_BOOT)).items()}
    del source[0x40]  # the map says why

    assert CodeMap.load("u-boot").names == source


def test_coreboot_is_what_its_header_says() -> None:
    assert CodeMap.load("coreboot").names == hyphenated(table(COREBOOT))


def test_edk2_is_what_its_conversion_makes_of_status_codes() -> None:
    # CodeTypeToPostCode: bits 24 to 26 become 5 to 7, bits 16 to 20 become 0 to 4.
    source = {(value >> 24 & 7) << 5 | value >> 16 & 0x1F: name for name, value in EDK2.items()}

    assert source.items() <= CodeMap.load("edk2").names.items()


def test_qemu_boot_time_is_what_its_header_says() -> None:
    source = {code: name.lower() for code, name in table(QEMU_BOOT_TIME).items()}

    assert CodeMap.load("qemu-boot-time").names == source


def test_cloud_hypervisor_is_what_its_kernel_writes() -> None:
    assert CodeMap.load("cloud-hypervisor").names == CLOUD_HYPERVISOR


def test_the_guest_kits_map_names_all_that_the_kit_writes() -> None:
    known = CodeMap.load("chdebugd-guest").names
    kit = ROOT / "packaging" / "guest"
    written = set()
    for place in ("kernel", "grub", "systemd", "dracut", "initramfs-tools", "firmware"):
        for path in (kit / place).rglob("*"):
            written |= _marks_in(path) if path.is_file() else set()

    assert {0x00, 0x1F, 0x20, 0x2F, 0x40, 0x41, 0x48, 0x4F, 0x61, 0x64, 0x70} <= written
    assert written - {0x72} <= set(known)  # 0x72 is an example of a code of one's own


def _marks_in(path: Path) -> set[int]:
    text = path.read_text(errors="replace")
    writers = r"chdebug[-_]mark|outb\(|outb 0x80|on_load =|on_panic ="
    return {int(code, 16) for code in re.findall(rf"(?:{writers})\s*(0x[0-9a-f]+)\b", text)}


@pytest.mark.parametrize("name", map_names((ROOT / "chdebugd" / "trace" / "codes",)))
def test_the_spans_of_a_map_join_codes_it_names(name: str) -> None:
    codes = CodeMap.load(name)

    assert codes.source
    ends = {end for span in codes.spans for end in (span.start, span.end)}
    assert ends <= set(codes.names)


def test_a_map_has_names_stages_and_spans(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "Mine"\nsource = "me"\n[codes]\n0x40 = "a"\n65 = { name = "b", stage = "S" }\n'
        '[[spans]]\nname = "s"\nfrom = 0x40\nto = "0x41"\n'
    )

    codes = CodeMap.read(path)

    assert (codes.title, codes.source) == ("Mine", "me")
    assert codes.names == {0x40: "a", 0x41: "b"}
    assert codes.stages == {0x41: "S"}
    assert codes.spans == (Span("s", 0x40, 0x41),)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[codes]\n0x40 = "a"\n0x41 = \n', 3, "Invalid value"),
        ('[codes]\n0x40 = "a"\n0x100 = "b"\n', 3, "'0x100' is not a code from 0x00 to 0xff"),
        ('[codes]\n0x40 = "a"\n64 = "b"\n', 3, "code 0x40 comes twice"),
        ('[codes]\n\n"0x40" = 7\n', 3, "code '0x40' needs a name of 1 to 100 printable"),
        ('[codes]\n0x40 = "\\u001b[31m"\n', 2, "code '0x40' needs a name of 1 to 100 printable"),
        ('[codes]\n0x40 = { name = "a", stage = 1 }\n', 2, "the stage of '0x40' must be of 1 to"),
        ("codes = 1\n", 1, "[codes] must be a table"),
        ('[[spans]]\nname="a"\nfrom=1\nto=2\n[[spans]]\nname="b"\n', 5, "needs name, from and to"),
        ('\n[[spans]]\nname="a"\nfrom=1\nto=300\n', 2, "to of 'a' is not a code"),
        ("[spans]\n", 1, "spans must be written as [[spans]]"),
    ],
)
def test_a_bad_map_is_told_by_file_line_and_reason(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)

    with pytest.raises(CodeMapError) as caught:
        CodeMap.read(path)

    assert str(path) in str(caught.value)
    assert f"line {line}" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a.b", "x" * 65])
def test_a_maps_name_is_no_path(name: str) -> None:
    with pytest.raises(CodeMapError, match="is not the name of a code map"):
        CodeMap.load(name)


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_bad_map_stops_no_vm_and_the_journal_says_why(ctl: Ctl) -> None:
    (ctl.codes / "bad.toml").write_text('[codes]\n0x40 = "a"\n0x100 = "b"\n')

    done = ctl.run("boot", "--name=b", "--map=bad")

    assert "after 10 marks" in done.stdout
    warning = (
        "Code map /etc/chdebugd/codes/bad.toml, line 3: '0x100' is not a code from 0x00 to 0xff"
    )
    sentences = [entry["MESSAGE"] for entry in entries_of(ctl, "VM=b", "PRIORITY=4")]
    assert sentences == [f"{warning}; codes have no names, ignoring"]


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_map_of_the_host_names_codes_in_journal_and_signals(ctl: Ctl) -> None:
    (ctl.codes / "mine.toml").write_text(
        '[codes]\n0x40 = { name = "now", stage = "Later" }\n0x41 = "then"\n'
    )

    shown = ctl.run("boot", "--name=m", "--map=mine").stdout

    assert "0x40 now" in shown
    named = {
        entry["CODE"]: (entry["CODE_NAME"], entry.get("CODE_STAGE"))
        for entry in entries_of(ctl, "VM=m")
        if "CODE_NAME" in entry
    }
    assert named == {"0x40": ("now", "Later"), "0x41": ("then", None)}
    assert "Later" in ctl.run("time", "m").stdout


def test_codes_lists_the_maps(bus_address: str) -> None:
    ctl = Ctl(bus_address, Journald(Path(), Path()), Path())

    found = {each["map"]: each for each in ctl.json("codes")}

    shipped = "chdebugd-guest cloud-hypervisor coreboot demo edk2 qemu-boot-time u-boot"
    assert set(shipped.split()) <= set(found)
    assert all("error" not in each for each in found.values())
    assert {"code": 0x40, "stage": "Kernel", "name": "kernel-start"} in ctl.json(
        "codes", "cloud-hypervisor"
    )
    assert "There is no code map 'nix'" in ctl.run("codes", "nix", status=1).stderr
