//! Test support: a registry that misbehaves on request.
