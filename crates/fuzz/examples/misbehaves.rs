//! A target that does what none may: its valid inputs say what. For the test of the alarms.

#![cfg_attr(fuzzing, no_main)]

use std::hint::black_box;

fn seeds() -> Vec<Vec<u8>> {
    [&b"nothing"[..], b"panic", b"memory", b"loop"].map(<[u8]>::to_vec).to_vec()
}

larder_fuzz::fuzz_target!(seeds, |bytes| match bytes {
    b"panic" => panic!("as it was told"),
    b"memory" => drop(black_box(vec![1_u8; 300 << 20])),
    b"loop" => loop {
        black_box(bytes);
    },
    _ => {}
});
