//! What crosses the control API, version 1. Names and units are stable; sizes are bytes, times milliseconds.
