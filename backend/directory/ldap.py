"""`ActiveDirectory`: prove who somebody is, find people and groups; the only file that imports ldap3.

People are bound on a connection of their own, by the DN that the service connection found, so that who was
proved is exactly who is let in. Each thread keeps one service connection open, for a socket under gevent
belongs to the thread that made it. Controllers are tried in turn; those that failed lately come last.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import ldap3
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars

from backend.directory import ad
from backend.directory.facts import ControllerFacts, DirectoryFacts, DirectoryReport, Found, Person, Proof, wrong
from backend.directory.names import Login
from backend.errors import Invalid, Refused, Unavailable

CONNECT_S, ANSWER_S = 3, 10  # whole seconds: ldap3 packs them so
SHUN_S = 60  # a controller that failed is asked last for so long
IDLE_S = 120  # a service connection unused for longer is not trusted to be still there
PAGE, AT_ONCE = 200, 50

PEOPLE = "(objectCategory=person)(objectClass=user)"
GROUPS = "(objectCategory=group)(groupType:1.2.840.113556.1.4.803:=2147483648)"  # those that give rights
_INVALID_CREDENTIALS, _NO_SUCH_OBJECT = 49, 32
_PAGED = "1.2.840.113556.1.4.319"

Entry = Mapping[str, Any]


class Silent(Exception):
    """A controller could not be reached or not be trusted; `str()` says why, as the end of a sentence."""


class ActiveDirectory:
    """One Active Directory domain. Safe to use from many threads; talks to nobody before it is asked something."""

    def __init__(self, facts: DirectoryFacts, unseal: Callable[[str], str]) -> None:
        self.facts, self._unseal = facts, unseal
        self._shunned: dict[str, float] = {}
        self._local = threading.local()
        self._tls: _Tls | None = None

    # -- questions -------------------------------------------------------------------------------
    def prove(self, login: Login, password: str) -> Proof:
        """Try this password. A name that nobody has is bound all the same: it takes as long, and is told the same."""
        try:
            secret = password.encode()
        except UnicodeEncodeError:
            secret = b""
        if not secret or not login.account:  # a bind without a password succeeds for everybody (RFC 4513, 5.1.2)
            return Proof(wrong())
        try:
            entry = ad.choose(login, list(self._search(login_filter(login, self.facts.name), ad.PERSON, limit=3)))
            who = ad.first(entry, "distinguishedName") if entry else f"CN=Nobody has this name,{self._base()}"
            connection, refused = self._bind(who, secret)
            _close(connection)
            if refused is not None:
                return Proof(ad.refusal(refused), trouble="")
            if entry is None:
                return Proof(wrong(), trouble="")
            return Proof(person=ad.person(entry, self._token_groups(who)), trouble="")
        except Unavailable as silent:
            return Proof(silent, guess=False, trouble=silent.message)

    def search(self, text: str, kinds: Sequence[str] = ("user", "group"), limit: int = AT_ONCE) -> list[Found]:
        """People and groups with a name, or a word of it, that begins with the text; so many of each at most."""
        if not text.strip():
            return []
        found = []
        for kind in kinds:
            attributes = ad.PERSON if kind == "user" else ad.GROUP
            found += [ad.found(kind, e) for e in self._search(search_filter(kind, text), attributes, limit=limit)]
        return sorted(found, key=lambda f: (f.kind == "group", f.display_name.casefold(), f.dn))

    def person(self, external_id: str, now: datetime) -> Person | None:
        """The person with this SID; None when the domain has none."""
        return self.people([external_id], now)[external_id]

    def people(self, external_ids: Sequence[str], now: datetime) -> dict[str, Person | None]:
        """What the domain says of these SIDs now; None for one that it does not have any more."""
        answer: dict[str, Person | None] = dict.fromkeys(external_ids)
        for at in range(0, len(external_ids), AT_ONCE):
            wanted = f"(&{PEOPLE}{_any_sid(external_ids[at:at + AT_ONCE])})"
            for entry in self._search(wanted, ad.PERSON, limit=AT_ONCE):
                person = ad.person(entry, self._token_groups(ad.first(entry, "distinguishedName")), now)
                answer[person.external_id] = person
        return answer

    def group(self, external_id: str) -> Found | None:
        """The group with this SID; None when the domain has none."""
        for entry in self._search(f"(&{GROUPS}{_any_sid([external_id])})", ad.GROUP, limit=1):
            return ad.found("group", entry)
        return None

    def suffixes(self) -> tuple[str, ...]:
        """What people's names may end in after the @, besides the domain's own name."""
        return self._partitions()[1]

    def test(self, count_to: int = 1000) -> DirectoryReport:
        """Try every controller, then the service account's bind and a search, and tell all that was found."""
        controllers = tuple(self._probe(url) for url in self.facts.servers)
        try:
            self.close()
            base = self._base()
            netbios, suffixes = self._partitions()
            entries = self._search(f"(&{PEOPLE})", ("distinguishedName",), limit=count_to + 1)
            found = [ad.first(entry, "distinguishedName") for entry in entries]
            for one in found[:1]:
                self._token_groups(one)
        except Refused as no:
            return DirectoryReport(controllers, bind_why=no.message)
        return DirectoryReport(controllers, True, "", base, netbios, suffixes, min(len(found), count_to), len(found) > count_to)

    def close(self) -> None:
        """Close this thread's service connection."""
        self._local.__dict__.pop("service", None)

    # -- asking ----------------------------------------------------------------------------------
    def _search(self, wanted: str, attributes: Sequence[str], *, limit: int) -> Iterator[Entry]:
        """Entries below the base, page by page, `limit` at most."""
        cookie, left = None, limit
        while left > 0:
            result, entries = self._ask(self._base(), wanted, ldap3.SUBTREE, attributes, min(PAGE, left), cookie)
            yield from entries[:left]
            left -= len(entries)
            cookie = result.get("controls", {}).get(_PAGED, {}).get("value", {}).get("cookie")
            if not cookie:
                return

    def _token_groups(self, dn: str) -> list[bytes]:
        """SIDs of all groups of this person, nested ones too: the domain computes them much faster than a search would."""
        _, entries = self._ask(dn, "(objectClass=*)", ldap3.BASE, ("tokenGroups",))
        groups = list(entries[0].get("tokenGroups", [])) if entries else []
        if entries and not groups:  # everybody has one group at least
            raise Unavailable("directory_hides_groups", f"The domain {self.facts.name} does not let {self.facts.bind_user} read "
                              "people's groups (tokenGroups). Put that account into “Windows Authorization Access Group”.")
        return groups

    def _partitions(self) -> tuple[str, tuple[str, ...]]:
        """The domain's short name (CORP), and the forest's further UPN suffixes."""
        root = self._root()
        where = f"CN=Partitions,{ad.first(root, 'configurationNamingContext')}"
        own = escape_filter_chars(ad.first(root, "defaultNamingContext"))
        _, named = self._ask(where, f"(&(objectClass=crossRef)(nCName={own}))", ldap3.LEVEL, ("nETBIOSName",))
        _, forest = self._ask(where, "(objectClass=*)", ldap3.BASE, ("uPNSuffixes",))
        suffixes = [bytes(s).decode().lower() for s in (forest[0].get("uPNSuffixes", []) if forest else [])]
        return (ad.first(named[0], "nETBIOSName") if named else "", tuple(sorted(suffixes)))

    def _root(self) -> Entry:
        _, entries = self._ask("", "(objectClass=*)", ldap3.BASE, ("defaultNamingContext", "configurationNamingContext"))
        return entries[0]

    def _base(self) -> str:
        if not self.facts.base_dn and not hasattr(self._local, "base"):
            self._local.base = ad.first(self._root(), "defaultNamingContext")
        return self.facts.base_dn or self._local.base

    def _ask(
        self, base: str, wanted: str, scope: Any, attributes: Sequence[str], page: int | None = None, cookie: Any = None,
    ) -> tuple[dict[str, Any], list[Entry]]:
        """One question on the service connection, asked again on a new one when the kept one has died."""
        for last in (False, True):
            connection, kept = self._service()
            try:
                _, result, response, _ = connection.search(
                    base, wanted, scope, ldap3.DEREF_NEVER, list(attributes), paged_size=page, paged_cookie=cookie)
            except (LDAPException, OSError) as gone:
                self.close()
                if last or not kept or cookie:
                    raise self._unavailable({connection.server.host: _why(gone)}) from gone
                continue
            if result["result"] not in (0, _NO_SUCH_OBJECT):
                raise Unavailable("directory_error", f"The domain {self.facts.name} does not answer a search: "
                                  f"{result['description']}. Look at the rights of {self.facts.bind_user} and at the base DN.")
            return result, [e["raw_attributes"] for e in response or [] if e["type"] == "searchResEntry"]
        raise AssertionError("not reached")

    def _service(self) -> tuple[Any, bool]:
        """This thread's service connection, and whether it was open already."""
        kept: _Kept | None = getattr(self._local, "service", None)
        if kept is None or time.monotonic() - kept.used_at > IDLE_S:
            self.close()
            connection, refused = self._bind(self.facts.bind_user, self._unseal(self.facts.bind_password_sealed).encode())
            if refused is not None:
                _close(connection)
                raise Unavailable("directory_refuses_service", f"The domain {self.facts.name} refuses Leasehold's own account "
                                  f"{self.facts.bind_user}: {ad.refusal(refused).message}")
            self._local.service = _Kept(connection)
            return connection, False
        kept.used_at = time.monotonic()
        return kept.connection, True

    # -- reaching a controller -------------------------------------------------------------------
    def _bind(self, user: str, password: bytes) -> tuple[Any, str | None]:
        """A connection to the first controller that answers a bind, and the sub-code it was refused with or None;
        `Unavailable` when no controller answers."""
        failures = {}
        now = time.monotonic()
        for url in sorted(self.facts.servers, key=lambda u: self._shunned.get(u, 0.0) > now):
            try:
                connection = self._open(url, user, password)
                refused = _bind(connection)
            except Silent as silent:
                failures[url] = str(silent)
                self._shunned[url] = now + SHUN_S
            else:
                self._shunned.pop(url, None)
                return connection, refused
        raise self._unavailable(failures)

    def _open(self, url: str, user: str | None = None, password: bytes | None = None) -> Any:
        parts = urlsplit(url)
        if parts.scheme == "ldap" and not self.facts.starttls:
            raise Silent("without TLS nothing is said to it: write ldaps:// or switch StartTLS on")
        server = ldap3.Server(parts.hostname, parts.port or (636 if parts.scheme == "ldaps" else 389),
                              use_ssl=parts.scheme == "ldaps", tls=self._trust(), get_info=ldap3.NONE, connect_timeout=CONNECT_S)
        connection = ldap3.Connection(server, user, password, client_strategy=ldap3.SAFE_SYNC, receive_timeout=ANSWER_S,
                                      auto_referrals=False, check_names=False)
        try:
            connection.open(read_server_info=False)
            if parts.scheme == "ldap":
                connection.start_tls(read_server_info=False)
        except (LDAPException, OSError) as e:
            _close(connection)
            raise Silent(_why(e)) from e
        return connection

    def _trust(self) -> _Tls:
        """Whom to believe: the CA that was given, and the machine's own bundle only when that was asked for."""
        if self._tls is None:
            self._tls = _Tls(trust(self.facts.ca_pem, self.facts.system_ca))
        return self._tls

    def _probe(self, url: str) -> ControllerFacts:
        try:
            connection = self._open(url)
        except Silent as silent:
            return ControllerFacts(url, False, str(silent))
        shown, version = connection.socket.getpeercert(), connection.socket.version()
        _close(connection)
        expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
        return ControllerFacts(url, True, "", _dn(shown["subject"]), _dn(shown["issuer"]), expires, version)

    def _unavailable(self, failures: Mapping[str, str]) -> Unavailable:
        why = "; ".join(f"{url}: {reason}" for url, reason in failures.items())
        return Unavailable("directory_silent", f"No domain controller of {self.facts.name} answers ({why}).",
                           directory=self.facts.name)


class _Tls(ldap3.Tls):  # type: ignore[misc]
    """ldap3 would make a context for each connection and compare names by itself; here OpenSSL does, in one context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context = context

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket = self.context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class _Kept:
    """A service connection of one thread; closed when the thread ends, or the door is made anew."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.used_at = connection, time.monotonic()

    def __del__(self) -> None:
        _close(self.connection)


def trust(ca_pem: str, system_ca: bool = False) -> ssl.SSLContext:
    """A TLS context that checks certificate and host name against this CA; `Invalid` when it is none."""
    if not ca_pem and not system_ca:
        raise Invalid("no_ca", "Give the certificate (PEM) of the CA that signs the domain controllers' certificates.",
                      fields=["ca_pem"])
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
        if ca_pem and system_ca:
            context.load_default_certs()
    except (ssl.SSLError, ValueError) as e:
        raise Invalid("bad_ca", f"The CA's certificate cannot be read as PEM: {e}.", fields=["ca_pem"]) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def login_filter(login: Login, domain: str) -> str:
    """A filter for the person who signs in so; the domain's own name after the @ stands for both names a person has."""
    account = escape_filter_chars(login.account)
    by_account = f"(sAMAccountName={account})"
    if login.netbios or not login.domain:
        return f"(&{PEOPLE}{by_account})"
    by_upn = f"(userPrincipalName={account}@{escape_filter_chars(login.domain)})"
    return f"(&{PEOPLE}(|{by_upn}{by_account}))" if login.domain == domain else f"(&{PEOPLE}{by_upn})"


def search_filter(kind: str, text: str) -> str:
    """A filter for people or groups one of whose names begins with the text, or has a word that does."""
    part = escape_filter_chars(text.strip())
    if kind == "group":
        return f"(&{GROUPS}(|(cn={part}*)(sAMAccountName={part}*)(cn=* {part}*)))"
    names = ("sAMAccountName", "userPrincipalName", "displayName", "givenName", "sn", "mail")
    return f"(&{PEOPLE}(|{''.join(f'({name}={part}*)' for name in names)}(displayName=* {part}*)))"


_doors: dict[UUID, ActiveDirectory] = {}


def door(facts: DirectoryFacts, unseal: Callable[[str], str]) -> ActiveDirectory:
    """This process's door to the directory, made anew when its settings have changed."""
    kept = _doors.get(facts.id)
    if kept is None or kept.facts != facts:
        kept = _doors[facts.id] = ActiveDirectory(facts, unseal)
    return kept


def _any_sid(external_ids: Sequence[str]) -> str:
    each = ("".join(f"\\{byte:02x}" for byte in ad.sid_bytes(text)) for text in external_ids)
    return f"(|{''.join(f'(objectSid={octets})' for octets in each)})"


def _bind(connection: Any) -> str | None:
    """Bind; None when the name and password are right, else the sub-code. Any other answer is none: `Silent`."""
    try:
        ok, result, *_ = connection.bind(read_server_info=False)
    except (LDAPException, OSError) as gone:
        _close(connection)
        raise Silent(_why(gone)) from gone
    if not ok and result["result"] != _INVALID_CREDENTIALS:
        _close(connection)
        raise Silent(f"it answers {result['description']}")
    return None if ok else ad.subcode(str(result["message"]))


def _dn(name: Any) -> str:
    return ", ".join(f"{key}={value}" for part in name for key, value in part)


def _close(connection: Any) -> None:
    """Close the socket, whatever state the connection is in: ldap3 leaves it open when a handshake fails."""
    if connection.socket is not None:
        connection.socket.close()


def _why(e: Exception) -> str:
    """What went wrong, in words that say where to look."""
    text = str(e)
    for sign, words in (
        ("ostname mismatch", "its certificate was made for another name than the one in the address"),
        ("IP address mismatch", "its certificate was made for another name than the one in the address"),
        ("certificate has expired", "its certificate has expired"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by the CA that was given"),
        ("Connection refused", "the connection is refused"),
        ("timed out", f"no answer within {CONNECT_S} seconds"),
        ("invalid server address", "its name is not known to the DNS"),
    ):
        if sign in text:
            return words
    return text or type(e).__name__
