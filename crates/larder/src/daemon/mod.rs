//! The daemon: what the worker process does.
