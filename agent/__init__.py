"""Runs on every host: libvirt lives only here; threads, no gevent."""
