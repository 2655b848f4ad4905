"""Pure: processors in libvirt's XML and back."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hostapi.types import Cpu


def host_model(capabilities: str) -> str:
    """The element of the processor that the host can give to VMs, from the capabilities of its domains; nothing when it
    says none."""
    mode = ET.fromstring(capabilities).find("cpu/mode[@name='host-model']")
    if mode is None or mode.get("supported") != "yes" or mode.find("model") is None:
        return ""
    cpu = ET.Element("cpu")
    cpu.extend(list(mode))
    return ET.tostring(cpu, encoding="unicode")


def usable_models(capabilities: str) -> tuple[str, ...]:
    """The names of the models that the host can give to VMs."""
    models = ET.fromstring(capabilities).iterfind("cpu/mode[@name='custom']/model")
    return tuple(sorted(model.text or "" for model in models if model.get("usable") == "yes"))


def cpu_of(short: str, full: str) -> Cpu:
    """The processor of this element, all of whose features are in the other."""
    adds, lacks = _features(short)
    cpu = ET.fromstring(short)
    return Cpu(cpu.findtext("model", ""), cpu.findtext("vendor", ""), adds, lacks, _features(full)[0])


def put_cpu(cpu: Cpu, into: ET.Element) -> None:
    """Its model, vendor and features as children of a `cpu` element."""
    ET.SubElement(into, "model", fallback="forbid").text = cpu.model
    if cpu.vendor:
        ET.SubElement(into, "vendor").text = cpu.vendor
    for policy, names in (("require", cpu.adds), ("disable", cpu.lacks)):
        for name in names:
            ET.SubElement(into, "feature", policy=policy, name=name)


def cpu_xml(cpu: Cpu) -> str:
    """The element of a processor."""
    element = ET.Element("cpu")
    put_cpu(cpu, element)
    return ET.tostring(element, encoding="unicode")


def _features(xml: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that are required and those that are disabled, by name."""
    found: dict[str, list[str]] = {"require": [], "disable": []}
    for feature in ET.fromstring(xml).iterfind("feature"):
        found.setdefault(feature.get("policy", "require"), []).append(feature.get("name", ""))
    return tuple(sorted(found["require"])), tuple(sorted(found["disable"]))
