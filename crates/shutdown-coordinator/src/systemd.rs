//! Telling systemd how the service is.
