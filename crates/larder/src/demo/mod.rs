//! `larder demo`: the whole way on one machine, beside what a container engine does today.
