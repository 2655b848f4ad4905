"""Web process root: settings, sessions, `portal.create_app`. `main()` serves over TLS; `app()` is for other servers."""

from __future__ import annotations


def app():  # type: ignore[no-untyped-def]
    """The WSGI application, of the settings in the environment (gunicorn "wsgi:app()")."""
    import assembly
    from backend.config import load
    from backend.garbage import look_seldom
    from backend.logs import configure
    from portal import create_app
    from portal.parts import Parts

    settings = load()
    configure(settings.log_level)
    made = create_app(Parts.of(settings, assembly.COMMANDS))
    look_seldom()
    return made


def main() -> None:
    """Serve on gevent until told to stop."""
    from backend import green

    green.patch()
    from portal.serve import serve

    made = app()
    serve(made, made.extensions["parts"].settings)


if __name__ == "__main__":
    main()
