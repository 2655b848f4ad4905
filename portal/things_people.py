"""Pure: how people, their rights, directories and sessions are shown."""

from __future__ import annotations

from portal.thing import NAME, Button, Column, Part, Thing

USERS = Thing(
    "users",
    "user",
    "Users",
    "icon:user-round",
    "People known here: of the internal directory, or of a domain.",
    (
        Column("full_name", "Name", "name"),
        Column("display_name", "Called"),
        Column("enabled", "State", "enabled"),
        Column("directory", "Directory", "link", "directories"),
        Column("auto_launch", "Auto-launch", "yesno"),
        Column("signed_in_at", "Last sign-in", "ago"),
    ),
    (
        Column("display_name", "Called"),
        Column("email", "E-mail"),
        Column("directory", "Directory", "link", "directories"),
        Column("group", "Groups", "list"),
        Column("enabled", "May sign in", "yesno"),
        Column("auto_launch", "Auto-launch", "yesno"),
        Column("signed_in_at", "Last sign-in", "ago"),
    ),
    (
        Button("user.edit", "Edit", "icon:pencil", form=True, main=True),
        Button(
            "user.edit",
            "Disable",
            "icon:ban",
            lambda row: bool(row["enabled"]),
            danger=True,
            fixed=(("enabled", "false"),),
            ask="The person is signed out everywhere and cannot sign in until enabled again.",
        ),
        Button(
            "user.edit", "Enable", "icon:circle-check", lambda row: not row["enabled"], fixed=(("enabled", "true"),), main=True
        ),
        Button(
            "user.sign_out",
            "Sign out everywhere",
            "icon:log-out",
            ask="All sessions of the person end, and their consoles are closed.",
        ),
        Button(
            "user.remove", "Remove", "icon:trash-2", danger=True, ask="The person, their permissions and past leases are removed."
        ),
    ),
    (
        Part("Permissions", "permissions", "user_id = {id}"),
        Part("Leases", "leases", "user_id = {id} and state != ended", ("pool", "state", "vm", "ends_at")),
        Part("Sessions", "sessions", "user_id = {id}", ("client", "address", "created_at", "ended_at"), link=False),
        Part("API tokens", "tokens", "user_id = {id}", ("name", "ended_at", "read_only", "used_at", "expires_at"), link=False),
        Part("Events", "events", "user_id = {id}", link=False),
    ),
    (("user.create", "Create user"),),
    name="full_name",
    live=("token", "session", "permission", "lease"),
    hints=("enabled = false", "directory = internal", "group = staff"),
)

GROUPS = Thing(
    "groups",
    "group",
    "Groups",
    "icon:users-round",
    "Groups of directories that have been given something here.",
    (
        NAME,
        Column("directory", "Directory", "link", "directories"),
        Column("members", "People known here", "number"),
        Column("auto_launch", "Auto-launch", "yesno"),
    ),
    (
        Column("directory", "Directory", "link", "directories"),
        Column("members", "People known here", "number"),
        Column("auto_launch", "Auto-launch", "yesno"),
    ),
    (
        Button(
            "group.edit",
            "Switch auto-launch on",
            "icon:rocket",
            lambda row: not row["auto_launch"],
            fixed=(("auto_launch", "true"),),
        ),
        Button(
            "group.edit",
            "Switch auto-launch off",
            "icon:rocket",
            lambda row: bool(row["auto_launch"]),
            fixed=(("auto_launch", "false"),),
        ),
    ),
    (Part("Permissions", "permissions", "group_id = {id}"),),
    live=("permission",),
)

PERMISSIONS = Thing(
    "permissions",
    "permission",
    "Permissions",
    "icon:shield-check",
    "Who has which role on what.",
    (
        Column("user", "Who", "who"),
        Column("role", "Role", "role"),
        Column("object_type", "On", "object"),
        Column("valid_from", "From", "ago"),
        Column("valid_until", "Until", "left"),
        Column("calendar", "Hours", "link", "calendars"),
        Column("priority", "Priority", "number"),
    ),
    buttons=(
        Button(
            "permission.take",
            "Take",
            "icon:x",
            danger=True,
            ask="The role is taken back at once. A desktop that is held already is kept until it is returned.",
        ),
    ),
    creates=(("permission.grant", "Give a role"),),
    name="object",
    detail=False,
)

CALENDARS = Thing(
    "calendars",
    "calendar",
    "Calendars",
    "icon:calendar-clock",
    "Hours that come again, for entitlements: office hours, a course, nights.",
    (
        NAME,
        Column("windows", "Open", "list"),
        Column("timezone", "Time zone"),
        Column("closed", "Closed on", "list"),
        Column("description", "Description"),
    ),
    (
        Column("description", "Description"),
        Column("windows", "Open", "list"),
        Column("timezone", "Time zone"),
        Column("closed", "Closed on", "list"),
    ),
    (
        Button("calendar.edit", "Edit", "icon:pencil", form=True, main=True),
        Button("calendar.remove", "Remove", "icon:trash-2", danger=True, ask="What uses it must be given another one first."),
    ),
    (Part("Who has these hours", "permissions", "calendar_id = {id}", ("user", "role", "object_type", "valid_until")),),
    (("calendar.create", "Create calendar"),),
    live=("permission",),
)

DIRECTORIES = Thing(
    "directories",
    "directory",
    "Directories",
    "icon:book-user",
    "Where people come from: the internal directory and Active Directory domains.",
    (
        NAME,
        Column("trouble", "State", "trouble"),
        Column("type", "Kind", "directory_type"),
        Column("servers", "Domain controllers", "list"),
        Column("refreshed_at", "Refreshed", "ago"),
    ),
    (
        Column("type", "Kind", "directory_type"),
        Column("servers", "Domain controllers", "list"),
        Column("base_dn", "Base DN", "mono"),
        Column("netbios", "Short name"),
        Column("starttls", "StartTLS", "yesno"),
        Column("trouble", "Trouble"),
        Column("refreshed_at", "Refreshed", "ago"),
    ),
    (
        Button(
            "directory.remove",
            "Remove",
            "icon:trash-2",
            lambda row: row["type"] != "internal",
            danger=True,
            ask="Its people, their groups and everything they were given here are forgotten.",
        ),
    ),
    (
        Part("Users", "users", "directory_id = {id}", ("full_name", "display_name", "enabled", "signed_in_at")),
        Part("Groups", "groups", "directory_id = {id}", ("name", "members")),
    ),
    (("directory.add", "Add Active Directory"),),
    live=("user", "group"),
)

SESSIONS = Thing(
    "sessions",
    "session",
    "Sessions",
    "icon:log-in",
    "Who is signed in, with what, from where.",
    (
        Column("user", "Person", "link", "users"),
        Column("ended_at", "State", "session_state"),
        Column("client", "With"),
        Column("address", "From", "mono"),
        Column("device", "At", "link", "devices"),
        Column("created_at", "Since", "ago"),
        Column("seen_at", "Last seen", "ago"),
        Column("expires_at", "Expires", "left"),
    ),
    buttons=(
        Button(
            "session.end",
            "End",
            "icon:log-out",
            lambda row: not row["ended_at"],
            danger=True,
            ask="The person must sign in again there; their consoles of that session are closed.",
        ),
    ),
    name="user",
    detail=False,
)

TOKENS = Thing(
    "tokens",
    "token",
    "API tokens",
    "icon:key-round",
    "What programs use instead of a password: each has an owner, an end, and no more rights than its owner.",
    (
        Column("name", "Name"),
        Column("user", "Owner", "link", "users"),
        Column("ended_at", "State", "session_state"),
        Column("read_only", "Only reads", "yesno"),
        Column("roles", "Held to", "list"),
        Column("created_at", "Made", "ago"),
        Column("used_at", "Last used", "ago"),
        Column("expires_at", "Expires", "left"),
    ),
    buttons=(
        Button(
            "token.revoke",
            "Revoke",
            "icon:x",
            lambda row: not row["ended_at"],
            danger=True,
            ask="Whatever uses it is refused from now on, and consoles that were opened with it are closed.",
        ),
    ),
    detail=False,
    hints=("used_at < 2026-01-01", "read_only = false"),
)
