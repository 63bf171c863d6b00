//! From a hole to verified bytes: the fill engine.
