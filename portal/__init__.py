"""The web face: pages for people, REST for programs. Flask lives only here."""
