"""Calendars: when entitlements, bookings and spares count, in the time zone where people live."""
