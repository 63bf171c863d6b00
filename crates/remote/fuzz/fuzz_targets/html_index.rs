//! Reads any text as a server's HTML index of a directory.
//!
//! Invariants: no panic, no loop; what is listed are names of direct children, in order, each once.

#![cfg_attr(fuzzing, no_main)]

fn seeds() -> Vec<Vec<u8>> {
    let pages: [&[u8]; 2] =
        [include_bytes!("../seeds/html_index/nginx"), include_bytes!("../seeds/html_index/python")];
    pages.map(<[u8]>::to_vec).to_vec()
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    if let Ok(page) = std::str::from_utf8(bytes) {
        larder_remote::fuzzing::html_index(page);
    }
});
