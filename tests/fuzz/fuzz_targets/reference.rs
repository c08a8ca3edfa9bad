//! Any text as an image reference: what parses has names that parse to the same image.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/oci"]
mod oci {
    pub mod digest;
    mod json;
    pub mod reference;
}
#[path = "../../../src/error.rs"]
mod error;

use oci::reference::{ImageRef, tag_from_name};

fuzz_target!(|text: &str| {
    let _ = tag_from_name(text, text).map(|tag| ImageRef::parse(&tag).map(drop));
    let Ok(image) = ImageRef::parse(text) else { return };
    assert_eq!(ImageRef::parse(&image.to_string()).expect("display parses"), image);
    let stored = ImageRef::parse(&image.storage_name()).expect("storage name parses");
    assert_eq!(stored.storage_name(), image.storage_name());
    assert_eq!(stored.canonical_remote(), image.canonical_remote());
    if let Ok(file) = image.file_name() {
        assert!(!file.contains(['/', ':']) && !file.starts_with('.'));
        assert_eq!(ImageRef::parse(&file).expect("file name parses"), stored);
    }
    image.parse_report();
});
