"""Pure: ticket -> .vv file for remote-viewer, or the address and subprotocols for noVNC."""

from __future__ import annotations

from dataclasses import dataclass

PROTOCOL = "binary"  # the WebSocket subprotocol that noVNC asks for and the gateway answers
PREFIX = "leasehold."  # and beside it the one that carries the token: no URL, and so no log, ever holds it


@dataclass(frozen=True)
class Face:
    """How people's viewers see the gateway: its public `host:port`, its CA and its certificate's subject."""

    public: str
    ca_pem: str
    subject: str

    @property
    def proxy(self) -> str:
        """Where native viewers send CONNECT. They try a name's first address alone, and localhost's is ::1."""
        host, colon, port = self.public.partition(":")
        return f"http://{'127.0.0.1' if host == 'localhost' else host}{colon}{port}"

    @property
    def port(self) -> int:
        """The public port; 443 when none is named."""
        _, colon, port = self.public.rpartition(":")
        return int(port) if colon and port.isdigit() else 443


def novnc(public: str, token: str) -> dict[str, object]:
    """What a page needs to open the console with noVNC: `new WebSocket(url, protocols)`."""
    return {"type": "novnc", "url": f"wss://{public}/console", "protocols": [PROTOCOL, PREFIX + token]}


def spice_web(public: str, token: str) -> dict[str, object]:
    """What a page needs to open the console with a SPICE client in the browser; each channel is such a WebSocket."""
    return {"type": "spice", "url": f"wss://{public}/console/spice", "protocols": [PROTOCOL, PREFIX + token]}


def vv(face: Face, *, name: str, password: str, title: str, full_screen: bool = False) -> str:
    """The text of a viewer file that opens one SPICE console once, through the gateway.

    `name` is the one-time host name that the gateway knows the ticket by; no such host exists anywhere.
    """
    entries = {
        "type": "spice",
        "host": name,
        "port": "-1",
        "tls-port": str(face.port),
        "password": password,
        "proxy": face.proxy,
        "ca": face.ca_pem,
        "host-subject": face.subject,
        "secure-channels": "all",
        "title": title,
        "fullscreen": "1" if full_screen else "0",
        "toggle-fullscreen": "shift+f11",
        "release-cursor": "shift+f12",
        "delete-this-file": "1",
    }
    lines = [f"{key}={_escape(value)}" for key, value in entries.items()]
    return "\n".join(["[virt-viewer]", *lines, ""])


def subject_line(pairs: list[tuple[str, str]]) -> str:
    """A certificate's subject as viewers compare it: `O=Leasehold,CN=gateway`, in the certificate's order."""
    escaped = ((key, value.replace("\\", "\\\\").replace(",", "\\,")) for key, value in pairs)
    return ",".join(f"{key}={value}" for key, value in escaped)


def _escape(value: str) -> str:
    """A value of a GKeyFile: backslashes, line ends and a leading blank escaped, other control characters dropped."""
    value = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    value = "".join(c for c in value if c.isprintable())
    return "\\s" + value[1:] if value.startswith(" ") else value
